"""Bounds by hand and by the scorer: what perfect association makes of given boxes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.schema import Detections, SequenceResult, SequenceTruth
from models.config_io import config_to_dict
from models.qdtrack.association import TrackerConfig
from pipeline.bounds import (
    THRESHOLDS,
    NoBoundError,
    associate_perfectly,
    association_of,
    count_at_thresholds,
    track_truth,
)
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.lineage import detections_of
from pipeline.store import Artefact, StoreError
from tests.diagnosis_scene import detections_behind, write_result

MakeTruth = Callable[..., SequenceTruth]
RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]

BDD100K = build_protocol(EvaluationConfig())
CAR = BDD100K.classes.index("car")
BOX, FAR = (0, 0, 100, 100), (500, 0, 600, 100)


@pytest.fixture
def truth(make_truth: MakeTruth) -> SequenceTruth:
    """One car in three frames."""
    return make_truth([(frame, 4, CAR, BOX) for frame in range(3)], 3)


@pytest.fixture
def detections() -> Detections:
    """It is found with falling scores; the second frame has a false box, too."""
    return Detections(
        frame_offsets=np.array([0, 1, 3, 4]),
        boxes_xyxy=np.array([BOX, FAR, BOX, BOX], np.float32),
        scores=np.array([0.9, 0.5, 0.6, 0.2], np.float32),
        class_indices=np.full(4, CAR, np.int16),
        embeddings=np.zeros((4, 0), np.float32),
    )


def test_misses_and_false_boxes_at_each_threshold(
    truth: SequenceTruth, detections: Detections
) -> None:
    counts = count_at_thresholds(BDD100K, truth, detections)[:, CAR]
    by_threshold = dict(zip(THRESHOLDS, counts.tolist(), strict=True))
    # One false box; then the last true one falls away, then the false one, then the others.
    assert [by_threshold[t] for t in (0.0, 0.2, 0.25, 0.5, 0.55, 0.65, 0.9, 0.95)] == (
        [1, 1, 2, 2, 1, 2, 2, 3]
    )


@pytest.mark.parametrize(
    ("threshold", "keep_false", "expected"),
    [
        (0.0, True, [(0, 0), (1, 2), (1, 0), (2, 0)]),
        (0.0, False, [(0, 0), (1, 0), (2, 0)]),
        (0.55, True, [(0, 0), (1, 0)]),
        (0.95, True, []),
    ],
)
def test_matched_boxes_share_the_true_identity(
    threshold: float,
    keep_false: bool,
    expected: list[tuple[int, int]],
    truth: SequenceTruth,
    detections: Detections,
) -> None:
    result = associate_perfectly(BDD100K, truth, detections, threshold, keep_false=keep_false)
    tracks = result.tracks
    assert list(zip(tracks.frame_index.tolist(), tracks.track_id.tolist(), strict=True)) == expected


def test_nothing_is_switched_and_the_right_boxes_have_the_fewest_errors(
    random_sequence: RandomSequence,
) -> None:
    for seed in range(10):
        truth, result = random_sequence(f"bound {seed}")
        tracks = result.tracks.select(np.argsort(result.tracks.frame_index, kind="stable"))
        detections = detections_behind(tracks, 30)
        perfect, right = (
            evaluate_sequence(
                BDD100K,
                truth,
                associate_perfectly(BDD100K, truth, detections, 0.0, keep_false=keep_false),
            ).rows["OVERALL"]
            for keep_false in (True, False)
        )
        present = evaluate_sequence(BDD100K, truth, result).rows["OVERALL"]
        assert perfect["IDSw"] == right["IDSw"] == right["FP"] == 0
        assert perfect["FN"] == right["FN"] <= present["FN"]
        assert right["MOTA"] >= perfect["MOTA"] >= present["MOTA"]
        assert perfect["AssA"] > present["AssA"]


def _track(frames: Artefact, tracks: Artefact, *, run_network: bool = True) -> Artefact:
    return track_truth(frames, tracks, run_network=run_network, num_workers=1, gpus_per_worker=0)


class TestTrueBoxes:
    """Why the bound cannot be had; that it can be made is in test_diagnose."""

    def test_without_the_weights(self, tmp_path: Path) -> None:
        frames, tracks = write_result(tmp_path)
        with pytest.raises(NoBoundError, match="weights that made the detections are not in"):
            _track(frames, tracks)

    def test_without_the_detections(self, tmp_path: Path) -> None:
        frames, tracks = write_result(tmp_path)
        Path(detections_of(tracks).folder, "manifest.json").unlink()
        with pytest.raises(NoBoundError, match="no longer in the store"):
            _track(frames, tracks)

    def test_where_the_network_did_not_run_and_may_not(self, tmp_path: Path) -> None:
        """It used to run unasked: hours on a laptop for a real data set."""
        frames, tracks = write_result(tmp_path)
        weights = replace(frames, stage="weights", fingerprint="w" * 16)
        weights.finish([], {})
        with pytest.raises(NoBoundError, match=r"not been run on true boxes yet; --run-network"):
            _track(frames, tracks, run_network=False)
        with pytest.raises(StoreError, match="no finished part for 'model'"):  # it goes on to run
            _track(frames, tracks)

    def test_of_itself(self, tmp_path: Path) -> None:
        frames, tracks = write_result(tmp_path)
        detections = detections_of(tracks)
        detections.finish(detections.sequences(), {**detections.details(), "boxes": "truth"})
        with pytest.raises(NoBoundError, match="itself is made from true boxes"):
            _track(frames, tracks)


def test_the_tracker_is_read_back_from_its_tracks(tmp_path: Path) -> None:
    _, tracks = write_result(tmp_path)
    config = TrackerConfig(match_score_thr=0.25)
    tracks.finish([], {"detections": "d", "association": config_to_dict(config)})
    assert association_of(tracks) == config
    silent = replace(tracks, fingerprint="s")
    silent.finish([], {"detections": "d"})
    with pytest.raises(StoreError, match="does not say which tracker"):
        association_of(silent)
