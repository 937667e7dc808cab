"""The official counting of KITTI MOTS against its rules written out one track at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.metrics.mots_counting import MotsCounting

MISSED = -1


def _one_object(
    matches: Sequence[int | None], iou: float = 1.0, num_false: int = 0
) -> dict[str, Any]:
    """One identity in every frame; the track that covers it in each, or None; and false tracks."""
    tracks = [np.array([] if track is None else [track], int) for track in matches]
    if num_false:
        tracks[0] = np.append(tracks[0], 5 + np.arange(num_false))
    overlaps = [np.where(ids < 5, iou, 0.0)[None] for ids in tracks]
    return {
        "num_timesteps": len(matches),
        "num_gt_ids": int(bool(matches)),
        "num_tracker_ids": 5 + num_false,
        "num_gt_dets": len(matches),
        "num_tracker_dets": sum(map(len, tracks)),
        "gt_ids": [np.array([0])] * len(matches),
        "tracker_ids": tracks,
        "similarity_scores": overlaps,
    }


def _without_truth(num_tracks: int) -> dict[str, Any]:
    return {
        "num_timesteps": 1,
        "num_gt_ids": 0,
        "num_tracker_ids": num_tracks,
        "num_gt_dets": 0,
        "num_tracker_dets": num_tracks,
        "gt_ids": [np.zeros(0, int)],
        "tracker_ids": [np.arange(num_tracks)],
        "similarity_scores": [np.zeros((0, num_tracks))],
    }


@pytest.mark.parametrize(("iou", "num_matches"), [(0.5, 0), (np.nextafter(0.5, 1), 1)])
def test_an_iou_of_exactly_one_half_is_no_match(iou: float, num_matches: int) -> None:
    fields = MotsCounting().eval_sequence(_one_object([0], iou))
    assert (fields["TP"], fields["FP"], fields["FN"]) == (num_matches, *[1 - num_matches] * 2)


@pytest.mark.parametrize(
    ("matches", "tracked"),
    [
        ([0] * 5, (1, 0, 0)),
        ([0, 0, 0, 0, None], (0, 1, 0)),  # exactly 0.8
        ([0, None, None, None, None], (0, 1, 0)),  # exactly 0.2
        ([0, None, None, None, None, None], (0, 0, 1)),
        ([None, None], (0, 0, 1)),
    ],
)
def test_borders_of_tracked_ratios(
    matches: Sequence[int | None], tracked: tuple[int, int, int]
) -> None:
    fields = MotsCounting().eval_sequence(_one_object(matches))
    assert (fields["MT"], fields["PT"], fields["ML"]) == tracked


@pytest.mark.parametrize(
    ("matches", "switches"),
    [
        ([0, 0, 0], 0),
        ([0, 1, 1], 1),
        ([0, 1, 0], 2),
        ([0, None, None, 1], 1),  # the gap does not make it forget
        ([0, None, None, 0], 0),
        ([None, 1, 1], 0),
    ],
)
def test_switches_are_counted_across_gaps(matches: Sequence[int | None], switches: int) -> None:
    assert MotsCounting().eval_sequence(_one_object(matches))["IDS"] == switches


@pytest.mark.parametrize(
    ("matches", "fragments"),
    [
        ([0, 0, 0, 0], 0),
        ([0, None, 0, 0], 1),
        ([0, None, 0, None], 0),  # tracked for a single frame in the middle: not seen
        ([0, None, 0, None, 0], 1),  # only the one at the end
        ([0, 1, 1], 1),  # a switch without a miss counts too
        ([0, 0, 1], 1),
        ([0, 0, None], 0),
        ([None, 0, 0], 0),  # found late, with frames behind it
        ([None, None, 0], 1),  # found first in the last frame: the quirk
        ([None, 0], 1),
        ([0], 0),  # a single frame has nothing before it
        ([None, None], 0),
    ],
)
def test_fragments_with_the_quirks_of_the_official_rule(
    matches: Sequence[int | None], fragments: int
) -> None:
    assert MotsCounting().eval_sequence(_one_object(matches))["Frag"] == fragments


def test_ratios_by_hand() -> None:
    """6 masks, 4 matched at 0.75, one switch, 2 false masks."""
    data = _one_object([0, 0, None, 1, 1, None], iou=0.75, num_false=2)
    fields = MotsCounting().eval_sequence(data)
    assert (fields["TP"], fields["FP"], fields["FN"], fields["IDS"]) == (4, 2, 2, 1)
    expected = {
        "sMOTSA": (3 - 2 - 1) / 6,
        "MOTSA": 1 - 5 / 6,
        "MOTSP": 0.75,
        "MODSA": 1 - 4 / 6,
        "MODSP": (4 * 0.75 + 2 * 1) / 6,  # a frame without a match counts 1
        "MOTSAL": 1 - 4 / 6,  # log10 of a single switch is 0
        "Recall": 4 / 6,
        "Precision": 4 / 6,
        "F1": 4 / 6,
        "FAR": 2 / 6,
    }
    assert {name: fields[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_without_truth_and_without_matches() -> None:
    metric = MotsCounting()
    for num_tracks in (0, 2):
        fields = metric.eval_sequence(_without_truth(num_tracks))
        accuracies = [fields[name] for name in ("sMOTSA", "MOTSA", "MODSA", "MOTSAL")]
        assert accuracies == [-math.inf] * 4
        assert fields["MOTSP"] == math.inf
        assert (fields["FP"], fields["Recall"], fields["Precision"]) == (num_tracks, 0, 0)
    missed = metric.eval_sequence(_one_object([None, None]))
    assert (missed["sMOTSA"], missed["MOTSA"], missed["MOTSP"]) == (0.0, 0.0, math.inf)


def test_sequences_are_added_up_and_then_divided() -> None:
    metric = MotsCounting()
    scores = {
        "a": metric.eval_sequence(_one_object([0, 0, 1, 1], iou=0.8)),
        "b": metric.eval_sequence(_one_object([None, None], num_false=1)),
        "c": metric.eval_sequence(_without_truth(3)),
    }
    together = metric.combine_sequences(scores)
    assert {n: together[n] for n in ("GT", "TP", "FP", "FN", "IDS", "Frames")} == {
        **{"GT": 6, "TP": 4, "FP": 4, "FN": 2, "IDS": 1, "Frames": 7}
    }
    assert together["sMOTSA"] == pytest.approx((3.2 - 4 - 1) / 6)
    assert together["MOTSA"] == pytest.approx(1 - 7 / 6)
    assert together["MOTSP"] == pytest.approx(0.8)
    assert together["MODSP"] == pytest.approx((3.2 + 2 + 1) / 7)


def test_classes_are_never_put_together() -> None:
    for combine in ("combine_classes_det_averaged", "combine_classes_class_averaged"):
        with pytest.raises(ValueError, match="each class for itself"):
            getattr(MotsCounting(), combine)({})


def _count_by_the_rules(data: dict[str, Any]) -> dict[str, int]:
    """The official tool's walk along every track, one frame at a time."""
    history: dict[int, list[int]] = {}
    for truth_ids, track_ids, ious in zip(
        data["gt_ids"], data["tracker_ids"], data["similarity_scores"], strict=True
    ):
        for row, identity in enumerate(truth_ids.tolist()):
            found = [
                track for track, iou in zip(track_ids.tolist(), ious[row], strict=True) if iou > 0.5
            ]
            history.setdefault(identity, []).append(found[0] if found else MISSED)
    counts = dict.fromkeys(("IDS", "Frag", "MT", "PT", "ML"), 0)
    for tracks in history.values():
        if set(tracks) == {MISSED}:
            counts["ML"] += 1
            continue
        last, num_tracked = tracks[0], int(tracks[0] != MISSED)
        for frame in range(1, len(tracks)):
            here, before = tracks[frame], tracks[frame - 1]
            if last not in (here, MISSED) and here != MISSED:
                counts["IDS"] += 1
            if frame < len(tracks) - 1 and before != here and MISSED not in (last, here):
                counts["Frag"] += tracks[frame + 1] != MISSED
            if here != MISSED:
                num_tracked += 1
                last = here
        if len(tracks) > 1 and tracks[-2] != tracks[-1] and MISSED not in (last, tracks[-1]):
            counts["Frag"] += 1
        ratio = num_tracked / len(tracks)
        counts["MT" if ratio > 0.8 else "ML" if ratio < 0.2 else "PT"] += 1
    return counts


@pytest.mark.parametrize("seed", range(60))
def test_equal_to_the_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames, num_ids = int(rng.integers(1, 12)), int(rng.integers(1, 8))
    truth, tracks, overlaps = [], [], []
    for _ in range(num_frames):
        ids = np.flatnonzero(rng.random(num_ids) < 0.8)
        found = ids[rng.random(len(ids)) < 0.7]
        ious = np.where(ids[:, None] == found, rng.uniform(0.45, 1.0, (len(ids), len(found))), 0.0)
        truth.append(ids)
        tracks.append(found + num_ids * rng.integers(0, 2, len(found)))
        overlaps.append(ious)
    names, relabelled = np.unique(np.concatenate(truth), return_inverse=True)
    edges = np.cumsum([len(ids) for ids in truth])[:-1]
    data = {
        "num_timesteps": num_frames,
        "num_gt_ids": len(names),
        "num_tracker_ids": 2 * num_ids,
        "gt_ids": np.split(relabelled, edges),
        "tracker_ids": tracks,
        "similarity_scores": overlaps,
    }
    found = MotsCounting().eval_sequence(data)
    expected = _count_by_the_rules(data)
    assert {name: found[name] for name in expected} == expected
