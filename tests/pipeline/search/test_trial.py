"""A trial on one sequence: the scores of the plain path, by the settings that were asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datasets.schema import SequenceResult
from models.baselines.motion import ByteTrackConfig, OcSortConfig, SortConfig
from models.baselines.overlap import OverlapConfig
from models.config_io import config_to_dict
from models.qdtrack.association import TaoTrackerConfig, TrackerConfig
from pipeline.associate import associate_sequence, build_tracker, read_detections
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.frames import read_truth
from pipeline.search.trial import load_sequence, replay_sequence
from tests.sweep_scene import Stored

PROTOCOL = build_protocol(EvaluationConfig())


@pytest.fixture(scope="module")
def stored(make_store: Callable[..., Stored]) -> Stored:
    return make_store(2)


@pytest.mark.parametrize(
    "config",
    [
        TrackerConfig(init_score_thr=0.6, obj_score_thr=0.3),
        TrackerConfig(match_metric="cosine", with_cats=False, memo_backdrop_frames=3),
        TaoTrackerConfig(init_score_thr=0.4),
        OverlapConfig(init_score_thr=0.5),
        SortConfig(init_score_thr=0.5),
        ByteTrackConfig(init_score_thr=0.5, high_score_thr=0.4, max_missed_frames=3),
        OcSortConfig(high_score_thr=0.4),
    ],
)
def test_a_replay_scores_what_the_plain_path_scores(stored: Stored, config: Any) -> None:
    for name in stored.detections.sequences():
        parts = (stored.frames.part(name), stored.detections.part(name))
        sequence = load_sequence(parts, build_tracker(config), PROTOCOL)
        found = replay_sequence(PROTOCOL, build_tracker(config), sequence)
        truth = read_truth(parts[0])
        tracks = associate_sequence(read_detections(parts[1]), config)
        result = SequenceResult(name=name, tracks=tracks, num_frames=truth.num_frames)
        expected = evaluate_sequence(PROTOCOL, truth, result).fields
        assert len(tracks) > 20
        for class_name, metrics in expected.items():
            for metric, fields in metrics.items():
                for field, value in fields.items():
                    np.testing.assert_array_equal(found.fields[class_name][metric][field], value)
        assert found.settings == config_to_dict(config)


def test_detections_of_other_frames_are_named(stored: Stored) -> None:
    parts = (stored.frames.part("s00"), stored.detections.part("s01"))
    tracker = build_tracker(TrackerConfig())
    load_sequence(parts, tracker, PROTOCOL)  # of equal length: only the artefacts know better
    cut = read_detections(parts[1])
    fewer = dataclasses.replace(cut, frame_offsets=cut.frame_offsets[[0, *range(2, 25)]])
    with stored.detections.part("s02").write() as writer:
        writer.write_arrow("detections.arrow", fewer.to_table())
    with pytest.raises(ValueError, match="'s00' has detections for 23 frames, its truth has 24"):
        load_sequence((parts[0], stored.detections.part("s02")), tracker, PROTOCOL)


def test_a_detection_that_is_no_number_is_named(stored: Stored) -> None:
    found = read_detections(stored.detections.part("s00"))
    scores = found.scores.copy()
    scores[found.frame_offsets[3]] = np.nan
    with stored.detections.part("s03").write() as writer:
        writer.write_arrow("detections.arrow", dataclasses.replace(found, scores=scores).to_table())
    parts = (stored.frames.part("s00"), stored.detections.part("s03"))
    with pytest.raises(ValueError, match="'s00', frame 3: scores holds nan in row 0"):
        load_sequence(parts, build_tracker(TrackerConfig()), PROTOCOL)
