"""Connecting to Ray: the cluster a job was submitted to, else a quiet one on this machine."""

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from pipeline.locations import is_local

logger = logging.getLogger(__name__)

_START_ATTEMPTS: Final = 4
_SLOW_START: Final = "timed out during startup"


def connect(*, num_cpus: int | None = None) -> None:
    """Attach to the running cluster that ``RAY_ADDRESS`` names, or start Ray here. Idempotent.

    Ray itself names the cluster to the jobs that are submitted to it.

    Args:
        num_cpus: CPUs of a Ray started here, by default this machine's; a running cluster has its
            own.

    Raises:
        ValueError: no connection: nothing at that address, or another token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Left unset, client and head disagree on whether a token is needed (Ray 2.59 and later).
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Left unset, Ray would join whatever it finds running on this machine.
        options |= {"address": "local", "include_dashboard": False, "num_cpus": num_cpus}
    try:
        start_ray(options)
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ValueError(
            f"Ray at {address or 'this machine'} does not answer: {error}; check RAY_ADDRESS, and "
            "that RAY_AUTH_MODE=token and the token are the same as on the head"
        ) from error
    quiet_ray_data()


def start_ray(options: Mapping[str, Any]) -> None:
    """`ray.init`, again where its processes take longer than the 30 s that Ray gives them.

    Raises:
        ValueError: this machine is too busy to start them at all.
    """
    import ray

    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises no class of its own here
            if _SLOW_START not in str(error):
                raise
            if attempt == _START_ATTEMPTS:
                raise ValueError(
                    f"Ray did not start in {attempt} attempts of 30 s: this machine is too busy or "
                    "short of memory; stop other programs and run again"
                ) from error
            logger.warning("Ray did not start within 30 s, this machine is busy: trying again")
        else:
            return


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


def worker_capacity(num_cpus: float, num_gpus: float = 0.0) -> int:
    """How many workers of this size the connected cluster holds when nothing else runs.

    A cluster that grows on demand counts as large as it may grow.
    """
    import ray
    from ray._private.state import state  # as Ray Train and Ray Data do: there is no public way

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = state.get_max_resources_from_cluster_config() or {}
    return max(
        sum(_fit(node, num_cpus, num_gpus) for node in nodes), _fit(largest, num_cpus, num_gpus)
    )


def _fit(resources: Mapping[str, float], num_cpus: float, num_gpus: float) -> int:
    wanted = {"CPU": num_cpus, "GPU": num_gpus}
    return min(int(resources.get(name, 0) / need) for name, need in wanted.items() if need > 0)


def quiet_ray_data() -> None:
    """Ray Data without progress bars and log lines of its own; stages have their own line."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
