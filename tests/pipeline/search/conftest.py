"""Stores for the tests of sweeps."""

from collections.abc import Callable

import pytest

from models.qdtrack.association import TrackerConfig
from pipeline.associate import build_tracker
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.search.trial import load_sequence
from tests.inline_pool import Sequences
from tests.sweep_scene import Stored, write_store


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Stored]:
    """A store of its own with so many sequences."""
    return lambda count: write_store(str(tmp_path_factory.mktemp("store")), count)


@pytest.fixture(scope="session")
def sequences(make_store: Callable[[int], Stored]) -> Sequences:
    """Twelve sequences, ready to be replayed by QDTrack's tracker and scored by BDD100K's rules."""
    stored = make_store(12)
    tracker, protocol = build_tracker(TrackerConfig()), build_protocol(EvaluationConfig())
    return {
        name: load_sequence(
            (stored.frames.part(name), stored.detections.part(name)), tracker, protocol
        )
        for name in stored.detections.sequences()
    }
