"""A trial on one sequence: the scores of the plain path, by the settings that were asked for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datasets.schema import SequenceResult
from models.baselines.mask_overlap import MaskOverlapConfig
from models.baselines.motion import ByteTrackConfig, OcSortConfig, SortConfig
from models.baselines.overlap import OverlapConfig
from models.config_io import config_to_dict
from models.pointtrack.association import PointTrackerConfig
from models.qdtrack.association import TaoTrackerConfig, TrackerConfig
from pipeline.associate import associate_sequence, build_tracker, read_detections
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.frames import read_truth
from pipeline.search.trial import ReplayTask, load_sequence, replay_sequence
from tests.inline_pool import InlinePool
from tests.mask_scene import make_mask_pair
from tests.sweep_scene import Stored, store_pairs

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


class TestMasks:
    """Detections and truth that have masks."""

    PROTOCOL = build_protocol(EvaluationConfig(protocol="kitti_mots"))

    @pytest.fixture(scope="class")
    def stored(self, tmp_path_factory: pytest.TempPathFactory) -> Stored:
        pairs = {name: make_mask_pair(name) for name in ("0002", "0006")}
        return store_pairs(str(tmp_path_factory.mktemp("masks")), pairs, "kitti_mots")

    @pytest.mark.parametrize(
        "config",
        [
            PointTrackerConfig(),
            PointTrackerConfig(match_threshold=4.0, keep_alive_frames=50),
            PointTrackerConfig(use_mask_iou=False, keep_alive_frames=3),
            MaskOverlapConfig(match_iou_thr=0.3),
            OverlapConfig(init_score_thr=0.5),
            SortConfig(init_score_thr=0.5),
            TrackerConfig(init_score_thr=0.6, obj_score_thr=0.3),
        ],
        ids=lambda config: config.kind,
    )
    def test_a_replay_scores_what_the_plain_path_scores(self, stored: Stored, config: Any) -> None:
        names = stored.detections.sequences()
        held = {
            name: load_sequence(
                (stored.frames.part(name), stored.detections.part(name)),
                build_tracker(type(config)()),  # of that kind, with other settings
                self.PROTOCOL,
            )
            for name in names
        }
        pool = InlinePool(self.PROTOCOL, held)  # makes all arrays read-only
        (outcome,) = pool.run({0: ReplayTask(config, names)})
        assert outcome.error is None
        for name in names:
            truth = read_truth(stored.frames.part(name))
            tracks = associate_sequence(read_detections(stored.detections.part(name)), config)
            result = SequenceResult(name=name, tracks=tracks, num_frames=truth.num_frames)
            expected = evaluate_sequence(self.PROTOCOL, truth, result).fields
            found = outcome.value[name]
            assert found.settings == config_to_dict(config)
            assert expected["car"]["MotsCounting"]["TP"] > 20
            for class_name, metrics in expected.items():
                for metric, fields in metrics.items():
                    for field, value in fields.items():
                        here = found.fields[class_name][metric][field]
                        np.testing.assert_array_equal(here, value)

    def test_their_arrays_are_counted_and_the_truth_holds_no_annotations(
        self, stored: Stored
    ) -> None:
        parts = (stored.frames.part("0002"), stored.detections.part("0002"))
        mask_config, box_config = PointTrackerConfig(), OverlapConfig()
        by_mask, by_box = (
            load_sequence(parts, build_tracker(config), self.PROTOCOL)
            for config in (mask_config, box_config)
        )
        assert by_mask.detections.masks is not None
        assert by_mask.num_bytes - by_box.num_bytes > by_mask.detections.masks.pair_iou.nbytes
        assert len(by_mask.truth.source.annotations) == 0
        assert len(by_mask.truth_classes) > 100


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
