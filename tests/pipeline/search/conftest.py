"""Stores for the tests of sweeps."""

from collections.abc import Callable

import pytest

from tests.sweep_scene import Stored, write_store


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Stored]:
    """A store of its own with so many sequences."""
    return lambda count: write_store(str(tmp_path_factory.mktemp("store")), count)
