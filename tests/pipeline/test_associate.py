"""Association of whole sequences: what reaches the tracker, and what comes out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.schema import Detections, Tracks
from models.baselines.mask_overlap import MaskOverlapConfig, MaskOverlapSequenceTracker
from models.baselines.motion import (
    ByteTrackConfig,
    MotionTracker,
    OcSortConfig,
    SortConfig,
)
from models.baselines.overlap import OverlapConfig, OverlapTracker
from models.config_io import config_from_dict, config_to_dict
from models.pointtrack.association import PointSequenceTracker, PointTrackerConfig
from models.qdtrack.association import (
    QuasiDenseTracker,
    TaoTracker,
    TaoTrackerConfig,
    TrackerConfig,
)
from models.tracking import check_detections
from pipeline.associate import (
    AssociationConfig,
    associate_sequence,
    build_tracker,
    prepare_sequence,
    replay,
    update_tracker,
)
from tests.mask_scene import NUM_FRAMES, make_mask_pair

BY_AGE = [TrackerConfig(), TaoTrackerConfig(), OverlapConfig()]
BY_MOTION = [SortConfig(), ByteTrackConfig(), OcSortConfig()]
BY_MASK: list[AssociationConfig] = [PointTrackerConfig(), MaskOverlapConfig()]
CONFIGS: list[AssociationConfig] = [*BY_AGE, *BY_MOTION]
ALL = [*CONFIGS, *BY_MASK]
TRACKERS = [
    *(QuasiDenseTracker, TaoTracker, OverlapTracker, *[MotionTracker] * 3),
    *(PointSequenceTracker, MaskOverlapSequenceTracker),
]


def scene(*frames: list[tuple[float, float, int]], half: bool = False) -> Detections:
    """Detections (x of a 10 x 10 box, score, class) per frame; the look is that of the class."""
    rows = [row for detections in frames for row in detections]
    looks = np.eye(8)[[label for *_, label in rows]] if rows else np.zeros((0, 8))
    return Detections(
        frame_offsets=np.cumsum([0, *map(len, frames)]).astype(np.int64),
        boxes_xyxy=np.array([[x, 0, x + 10, 10] for x, *_ in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in rows], np.float32),
        class_indices=np.array([label for *_, label in rows], np.int16),
        embeddings=(looks * 5).astype(np.float16 if half else np.float32),
    )


def random_scene(seed: int, num_frames: int = 12) -> Detections:
    rng = np.random.default_rng(seed)
    frames = [
        [
            (float(60 * label + rng.uniform(-5, 5)), float(score), int(label))
            for label in rng.integers(0, 8, rng.integers(0, 9))
            for score in rng.uniform(0.3, 1, 1)
        ]
        for _ in range(num_frames)
    ]
    return scene(*frames)


def columns(tracks: Tracks) -> dict[str, list[object]]:
    found = {name: column.tolist() for name, column in vars(tracks).items() if name != "masks"}
    return found if tracks.masks is None else {**found, "masks": list(tracks.masks)}


def update(tracker: Any, detections: Detections, frame_index: int) -> list[int]:
    """Ids that a tracker gives to one frame, called by hand."""
    rows = detections.rows(frame_index)
    ids = tracker.update(
        frame_index,
        detections.boxes_xyxy[rows],
        detections.scores[rows],
        detections.class_indices[rows],
        detections.embeddings[rows],
    )
    return [int(number) for number in ids]


def test_tracks_keep_frame_and_detector_order_and_point_back() -> None:
    detections = scene(
        [(0, 0.85, 0), (60, 0.95, 1), (120, 0.6, 2)],
        [],
        [(61, 0.7, 1), (200, 0.1, 3), (1, 0.9, 0)],
    )
    tracks = associate_sequence(detections, TrackerConfig())
    assert columns(tracks) == {
        "frame_index": [0, 0, 2, 2],
        "track_id": [1, 0, 0, 1],
        "detection_row": [0, 1, 3, 5],
        "boxes_xyxy": [[0, 0, 10, 10], [60, 0, 70, 10], [61, 0, 71, 10], [1, 0, 11, 10]],
        "scores": detections.scores[[0, 1, 3, 5]].tolist(),
        "class_index": [0, 1, 1, 0],
    }
    kinds = [column.dtype for column in vars(tracks).values() if column is not None]
    assert kinds == [np.int32, np.int64, np.int32, np.float32, np.float32, np.int16]
    again = Tracks.from_table(tracks.to_table(), where="memory")
    assert columns(again) == columns(tracks)


def test_empty_frames_do_not_reach_the_tracker() -> None:
    # Called on the empty frames 1 to 11, the tracker would have expired the track at frame 10.
    detections = scene([(0, 0.9, 0)], *[[]] * 11, [(0, 0.9, 0)])
    for config in BY_AGE:
        assert associate_sequence(detections, config).track_id.tolist() == [0, 0]
        called = build_tracker(config)
        ids = []
        for frame_index in range(detections.num_frames):
            ids += update(called, detections, frame_index)
        assert ids == [0, 1]


def test_empty_frames_leave_backdrops_alone() -> None:
    # The faint class 1 of frame 0 is a backdrop that still draws class 1 away at frame 2.
    config = TrackerConfig(with_cats=False)
    detections = scene([(0, 0.9, 0), (60, 0.6, 1)], [], [(60, 0.9, 1)])
    assert associate_sequence(detections, config).track_id.tolist() == [0, 1]
    without = TrackerConfig(with_cats=False, memo_backdrop_frames=0)
    assert associate_sequence(detections, without).track_id.tolist() == [0, 0]


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
def test_sequences_without_detections_give_no_tracks(config: AssociationConfig) -> None:
    for detections in (scene(), scene([], [], [])):
        tracks = associate_sequence(detections, config)
        assert len(tracks) == 0
        assert tracks.boxes_xyxy.shape == (0, 4)
        assert tracks.to_table().num_rows == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_sequences_do_not_see_each_other(config: AssociationConfig) -> None:
    alone = [columns(associate_sequence(random_scene(seed), config)) for seed in range(4)]
    for seed in (3, 1, 1, 0, 2):
        assert columns(associate_sequence(random_scene(seed), config)) == alone[seed]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_interleaved_trackers_give_what_each_gives_alone(config: AssociationConfig) -> None:
    scenes = [random_scene(seed) for seed in (10, 11)]
    trackers = [build_tracker(config) for _ in scenes]
    ids: list[list[int]] = [[], []]
    for frame_index in range(12):
        for detections, tracker, found in zip(scenes, trackers, ids, strict=True):
            rows = detections.rows(frame_index)
            if rows.start < rows.stop:
                found += update(tracker, detections, frame_index)
    for detections, found in zip(scenes, ids, strict=True):
        alone = associate_sequence(detections, config)
        assert [i for i in found if i >= 0] == alone.track_id.tolist()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_later_frames_change_nothing_before_them(config: AssociationConfig) -> None:
    whole = random_scene(5)
    tracks = associate_sequence(whole, config)
    end = int(whole.frame_offsets[7])
    start = Detections(
        frame_offsets=whole.frame_offsets[:8],
        boxes_xyxy=whole.boxes_xyxy[:end],
        scores=whole.scores[:end],
        class_indices=whole.class_indices[:end],
        embeddings=whole.embeddings[:end],
    )
    kept = tracks.frame_index < 7
    assert associate_sequence(start, config).track_id.tolist() == tracks.track_id[kept].tolist()


def test_tao_publishes_smoothed_scores_and_leaves_the_detections_alone() -> None:
    detections = scene([(0, 0.75, 0)], [(0, 0.25, 0)])
    before = detections.scores.copy()
    assert associate_sequence(detections, TaoTrackerConfig()).scores.tolist() == [0.75, 0.5]
    assert (detections.scores == before).all()
    assert associate_sequence(
        detections, TrackerConfig(obj_score_thr=0.2, init_score_thr=0.7)
    ).scores.tolist() == [0.75, 0.25]


def test_detections_read_back_from_arrow_are_used_as_they_are() -> None:
    detections = random_scene(8)
    mapped = Detections.from_table(detections.to_table(), where="memory")
    expected = columns(associate_sequence(detections, TrackerConfig()))
    assert columns(associate_sequence(mapped, TrackerConfig())) == expected


def test_half_precision_embeddings_are_accepted() -> None:
    detections = scene([(0, 0.9, 0)], [(0, 0.9, 0)], half=True)
    assert associate_sequence(detections, TrackerConfig()).track_id.tolist() == [0, 0]


def test_bad_detections_are_named_by_frame() -> None:
    detections = scene([(0, 0.9, 0)], [], [(0, 0.9, 0), (60, float("nan"), 1)])
    for config in CONFIGS:
        with pytest.raises(ValueError, match="frame 2: scores holds nan in row 1"):
            associate_sequence(detections, config)


def test_detections_without_embeddings_can_be_joined_by_overlap_only() -> None:
    full = scene([], [(0, 0.9, 0)], [(1, 0.9, 0)])
    bare = Detections(**{**vars(full), "embeddings": np.zeros((2, 0), np.float32)})
    assert associate_sequence(bare, OverlapConfig()).track_id.tolist() == [0, 0]
    for config in (TrackerConfig(), TaoTrackerConfig()):
        with pytest.raises(ValueError, match="frame 1: embeddings have width 0"):
            associate_sequence(bare, config)


@pytest.mark.parametrize(("config", "tracker"), zip(ALL, TRACKERS, strict=True))
def test_the_kind_of_config_chooses_the_tracker(
    config: AssociationConfig, tracker: type[object]
) -> None:
    built = build_tracker(config)
    assert type(built) is tracker
    assert built.config == config
    assert config_from_dict(type(config), config_to_dict(config)) == config


class TestMasks:
    """Detections that have masks."""

    @pytest.fixture(scope="class")
    def detections(self) -> Detections:
        return make_mask_pair("associate")[1]

    @pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
    def test_every_tracker_carries_them_along(
        self, detections: Detections, config: AssociationConfig
    ) -> None:
        mapped = Detections.from_table(detections.to_table(), where="memory")
        tracks = associate_sequence(mapped, config)
        assert detections.masks is not None
        expected = [detections.masks[row] for row in tracks.detection_row.tolist()]
        assert list(tracks.masks or ()) == expected
        assert len(tracks) > 100
        again = Tracks.from_table(tracks.to_table(), where="memory")
        assert columns(again) == columns(tracks)

    @pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
    def test_trackers_of_boxes_do_not_look_at_them(
        self, detections: Detections, config: AssociationConfig
    ) -> None:
        bare = Detections(**{**vars(detections), "masks": None})
        tracks, expected = (associate_sequence(d, config) for d in (detections, bare))
        assert expected.masks is None
        assert columns(tracks) == {**columns(expected), "masks": list(tracks.masks or ())}

    @pytest.mark.parametrize("config", BY_MASK, ids=lambda config: config.kind)
    def test_ids_are_unique_over_the_classes_and_numbered_as_they_come(
        self, detections: Detections, config: AssociationConfig
    ) -> None:
        tracks = associate_sequence(detections, config)
        assert len(tracks) == len(detections)
        ids, first = np.unique(tracks.track_id, return_index=True)
        assert ids.tolist() == list(range(len(ids)))
        assert (np.diff(first) > 0).all()
        pairs = set(zip(tracks.track_id.tolist(), tracks.class_index.tolist(), strict=True))
        assert len(pairs) == len(ids)
        assert set(tracks.class_index.tolist()) == {0, 1}

    @pytest.mark.parametrize("config", BY_MASK, ids=lambda config: config.kind)
    def test_it_makes_no_difference_whether_empty_frames_reach_the_tracker(
        self, detections: Detections, config: AssociationConfig
    ) -> None:
        memory = "keep_alive_frames" if isinstance(config, PointTrackerConfig) else "memo_frames"
        for frames in (0, 1, 2, 3):  # frames 20 and 21 are empty
            short = config_from_dict(type(config), {**config_to_dict(config), memory: frames})
            asked = build_tracker(short)
            sequence = prepare_sequence(detections, asked)
            nothing = asked.prepare(
                check_detections(0, np.zeros((0, 4)), [], [], np.zeros((0, 32)))
            )
            ids: list[int] = []
            for frame_index in range(NUM_FRAMES):
                frame = sequence.frame(frame_index)
                ids += asked.step(frame_index, nothing if frame is None else frame).tolist()
            assert ids == associate_sequence(detections, short).track_id.tolist()

    @pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
    def test_a_stream_of_frames_gives_the_tracks_of_the_whole(
        self, detections: Detections, config: AssociationConfig
    ) -> None:
        assert detections.masks is not None
        tracker, ids = build_tracker(config), []
        for frame_index in range(NUM_FRAMES):
            rows = detections.rows(frame_index)
            found, _ = update_tracker(
                tracker,
                frame_index,
                detections.boxes_xyxy[rows],
                detections.scores[rows],
                detections.class_indices[rows],
                detections.embeddings[rows],
                detections.masks[rows],
            )
            ids += found.tolist()
        assert [i for i in ids if i >= 0] == associate_sequence(
            detections, config
        ).track_id.tolist()

    def test_what_is_worked_out_ahead_changes_no_track(self, detections: Detections) -> None:
        rng = np.random.default_rng(0)
        config: AssociationConfig = PointTrackerConfig()
        prepared = [
            prepare_sequence(detections, build_tracker(config), mask_window_frames=frames)
            for frames in (4, 30)
        ]
        results = set()
        for trial in range(15):
            config = PointTrackerConfig(
                match_threshold=float(rng.uniform(0, 6)),
                mask_iou_weight=float(rng.uniform(0, 4)),
                keep_alive_frames=int(rng.integers(1, 60)),
                use_mask_iou=trial % 5 > 0,
                distance="cosine" if trial % 3 == 0 else "euclidean",
            )
            expected = columns(associate_sequence(detections, config))
            for sequence in prepared:
                assert columns(replay(build_tracker(config), sequence)) == expected
            results.add(tuple(expected["track_id"]))
        assert len(results) > 10

    def test_nothing_is_worked_out_for_trackers_of_boxes(self, detections: Detections) -> None:
        for config, expected in ((OverlapConfig(), False), (MaskOverlapConfig(), True)):
            sequence = prepare_sequence(detections, build_tracker(config), mask_window_frames=3)
            assert sequence.masks is not None
            assert (len(sequence.masks.pair_iou) > 0) == expected

    @pytest.mark.parametrize("config", BY_MASK, ids=lambda config: config.kind)
    def test_their_absence_is_named_by_frame(self, config: AssociationConfig) -> None:
        detections = scene([], [(0, 0.9, 0)])
        with pytest.raises(
            ValueError, match=f"frame 1: .* no masks, and the tracker `{config.kind}`"
        ):
            associate_sequence(detections, config)
        bare = Detections(**{**vars(detections), "embeddings": np.zeros((1, 0), np.float32)})
        with pytest.raises(ValueError, match="frame 1: embeddings have width 0"):
            associate_sequence(bare, PointTrackerConfig(use_mask_iou=False))
        without = associate_sequence(detections, PointTrackerConfig(use_mask_iou=False))
        assert without.track_id.tolist() == [0]
        assert without.masks is None


def test_association_starts_without_torch_and_ray(repository: Path) -> None:
    code = (
        "import sys, pipeline.associate; "
        "print(sorted({'torch', 'ray', 'mlflow', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
