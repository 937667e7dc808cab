"""Connecting to Ray: the cluster a job was submitted to, else a quiet one on this machine."""

import logging
import os
from typing import Any

from pipeline.store import is_local

logger = logging.getLogger(__name__)


def connect(*, num_cpus: int | None = None) -> None:
    """Attach to the running cluster that ``RAY_ADDRESS`` names, or start Ray here. Idempotent.

    Args:
        num_cpus: CPUs of a Ray started here; ignored, with a warning, on an existing cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Left unset, client and head disagree on whether a token is needed (Ray 2.59 and later).
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"include_dashboard": False, "num_cpus": num_cpus}
    elif num_cpus is not None:
        logger.warning("the CPUs of a running cluster are its own: num_cpus=%d unused", num_cpus)
    ray.init(**options)
    quiet_ray_data()


def check_shared_root(root: str) -> None:
    """Refuse a local root on a cluster of several nodes, before any work is done.

    Raises:
        ValueError: workers on other nodes would write to disks that nobody reads.
    """
    import ray

    num_nodes = sum(node["Alive"] for node in ray.nodes())
    if num_nodes > 1 and is_local(root):
        raise ValueError(
            f"the output root {root} is a local folder, but the cluster has {num_nodes} nodes: "
            "give --output-root (or QUASAR_ROOT) a URI that every node reaches, such as "
            "s3://bucket/folder"
        )


def available_cpus() -> int:
    """CPUs of the connected cluster."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def quiet_ray_data() -> None:
    """Ray Data without progress bars and log lines of its own; stages have their own line."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
