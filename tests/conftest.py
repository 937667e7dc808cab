"""Fixtures of the whole suite: one Ray, and the samples that lie beside the checkout."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared/` beside the checkout, with reference manifests and real samples."""
    path = REPOSITORY.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder shared/ with real samples does not lie beside the checkout")
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray of the suite: 2 CPUs, no dashboard, a small object store."""
    import ray

    from pipeline.cluster import quiet_ray_data

    # Short: Unix socket paths are limited to 107 bytes.
    folder = tempfile.mkdtemp(prefix="q", dir="/tmp")  # noqa: S108
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=1 << 30,
        _temp_dir=folder,
    )
    quiet_ray_data()
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
