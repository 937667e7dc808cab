"""Scoring of masks against trackeval's own dataset classes from the same files, and its borders."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trackeval

from datasets.masks import find_overlap
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.evaluate import evaluate
from pipeline.metrics.mots import MotsProtocol
from tests.mots_files import (
    IGNORE,
    Object,
    random_scene,
    rectangle,
    result_of,
    strip,
    tracks_of,
    truth_of,
    write_text,
)

KITTI = MotsProtocol("kitti_mots", ("car", "pedestrian"))
CHALLENGE = MotsProtocol("mots_challenge", ("pedestrian",))
NUM_FRAMES = 25
SEQUENCES = ("0002", "0006", "0007")

FIELDS = {
    **{name: ("HOTA", name) for name in ("HOTA", "DetA", "AssA")},
    **{"sMOTSA": ("CLEAR", "sMOTA"), "MOTSA": ("CLEAR", "MOTA"), "MOTSP": ("CLEAR", "MOTP")},
    "IDF1": ("Identity", "IDF1"),
    **{"TP": ("CLEAR", "CLR_TP"), "FP": ("CLEAR", "CLR_FP"), "FN": ("CLEAR", "CLR_FN")},
    "IDS": ("CLEAR", "IDSW"),
    **{name: ("CLEAR", name) for name in ("MT", "PT", "ML")},
}
"""What must be equal; Frag follows another rule."""

Scenes = dict[str, tuple[list[Object], list[Object]]]


def _scenes(seed: int, class_ids: Sequence[int] = (1, 2)) -> Scenes:
    return {
        name: random_scene(100 * seed + index, NUM_FRAMES, class_ids)
        for index, name in enumerate(SEQUENCES)
    }


def _records(scenes: Scenes) -> tuple[dict[str, SequenceTruth], dict[str, SequenceResult]]:
    return (
        {name: truth_of(scene[0], NUM_FRAMES, name=name) for name, scene in scenes.items()},
        {name: result_of(scene[1], name=name) for name, scene in scenes.items()},
    )


def _kitti_mots(root: Path, scenes: Scenes) -> Any:
    for name, (truth, result) in scenes.items():
        write_text(root / "gt" / "label_02" / f"{name}.txt", truth)
        write_text(root / "results" / "ours" / "data" / f"{name}.txt", result)
    return trackeval.datasets.KittiMOTS(
        {
            "GT_FOLDER": str(root / "gt"),
            "TRACKERS_FOLDER": str(root / "results"),
            "SEQ_INFO": dict.fromkeys(SEQUENCES, NUM_FRAMES),
            "PRINT_CONFIG": False,
        }
    )


def _mots_challenge(root: Path, scenes: Scenes) -> Any:
    for name, sides in scenes.items():
        truth, result = ([one._replace(frame=one.frame + 1) for one in side] for side in sides)
        write_text(root / "gt" / name / "gt" / "gt.txt", truth, (2,))
        write_text(root / "results" / "ours" / "data" / f"{name}.txt", result, (2,))
    return trackeval.datasets.MOTSChallenge(
        {
            "GT_FOLDER": str(root / "gt"),
            "TRACKERS_FOLDER": str(root / "results"),
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": dict.fromkeys(SEQUENCES, NUM_FRAMES),
            "PRINT_CONFIG": False,
        }
    )


def _score_with_trackeval(dataset: Any, class_name: str) -> dict[str, Any]:
    quiet = {"PRINT_CONFIG": False}
    metrics = {
        "HOTA": trackeval.metrics.HOTA(),
        # The official tool wants more than 0.5, trackeval is content with exactly that.
        "CLEAR": trackeval.metrics.CLEAR(quiet | {"THRESHOLD": 0.5 + 1e-9}),
        "Identity": trackeval.metrics.Identity(quiet),
    }
    scores: dict[str, Any] = {}
    for sequence in SEQUENCES:
        raw = dataset.get_raw_seq_data("ours", sequence)
        data = dataset.get_preprocessed_seq_data(raw, class_name)
        scores[sequence] = {name: metric.eval_sequence(data) for name, metric in metrics.items()}
    scores["all"] = {
        name: metric.combine_sequences({s: scores[s][name] for s in SEQUENCES})
        for name, metric in metrics.items()
    }
    return scores


@pytest.mark.parametrize(
    ("protocol", "make_files", "class_ids"),
    [(KITTI, _kitti_mots, (1, 2)), (CHALLENGE, _mots_challenge, (2,))],
    ids=["kitti_mots", "mots_challenge"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_equal_to_trackeval_on_files(
    protocol: MotsProtocol,
    make_files: Callable[[Path, Scenes], Any],
    class_ids: Sequence[int],
    seed: int,
    tmp_path: Path,
) -> None:
    scenes = _scenes(seed, class_ids)
    dataset = make_files(tmp_path, scenes)
    report = evaluate(protocol, *_records(scenes))
    for class_name in protocol.classes:
        expected = _score_with_trackeval(dataset, class_name)
        for sequence, scores in expected.items():
            table = report.metrics if sequence == "all" else report.sequences[sequence]
            for name, (metric, field) in FIELDS.items():
                found, value = table[class_name][name], np.mean(scores[metric][field])
                if isinstance(found, int):
                    assert found == value, (sequence, name)
                else:
                    assert found == pytest.approx(100 * value, rel=1e-12), (sequence, name)
        assert report.metrics[class_name]["FP"] > 0
        assert report.metrics[class_name]["IDS"] > 0


def test_the_scenes_have_ignored_tracks() -> None:
    """Otherwise the test above would say nothing of them."""
    truths, results = _records(_scenes(1))
    without = {
        name: dataclasses.replace(
            truth, annotations=truth.annotations.select(~truth.annotations.ignored)
        )
        for name, truth in truths.items()
    }
    counts = [evaluate(KITTI, truth, results).metrics["car"]["FP"] for truth in (truths, without)]
    assert counts[0] < counts[1]


def _car(frame: int, identity: int, mask: Any) -> Object:
    return Object(frame, identity, 0, mask)


def _ignored(frame: int, mask: Any) -> Object:
    return Object(frame, IGNORE, -1, mask)


def _cars(truth: Sequence[Object], result: Sequence[Object], num_frames: int = 1) -> Any:
    report = evaluate(KITTI, {"0001": truth_of(truth, num_frames)}, {"0001": result_of(result)})
    return report.metrics["car"]


@pytest.mark.parametrize(
    ("end", "num_matches"),
    [(20, 1), (10, 0), (11, 1)],  # of the 20 pixels of the truth
)
def test_an_iou_of_exactly_one_half_is_no_match(end: int, num_matches: int) -> None:
    numbers = _cars([_car(0, 1001, strip(0, 20))], [_car(0, 1, strip(0, end))])
    assert (numbers["TP"], numbers["FP"]) == (num_matches, 1 - num_matches)
    # trackeval's HOTA reaches its threshold 0.5 with it all the same.
    assert numbers["HOTA"] > 0


@pytest.mark.parametrize(
    ("ignored", "num_false"),
    [
        ([strip(40, 45)], 1),  # exactly half of the ten pixels
        ([strip(40, 46)], 0),
        ([strip(40, 43), strip(47, 50)], 0),  # the regions of a frame are merged
        ([strip(0, 40)], 1),
        ([rectangle(0, 30, 48, 96)], 0),  # the IoU is tiny, the share is what counts
    ],
)
def test_a_false_mask_mostly_inside_the_ignored_region_is_dropped(
    ignored: Sequence[Any], num_false: int
) -> None:
    truth = [_ignored(0, mask) for mask in ignored]
    assert _cars(truth, [_car(0, 1, strip(40, 50))])["FP"] == num_false


def test_ignored_regions_excuse_every_class_in_their_own_frame_only() -> None:
    truth = [_ignored(0, strip(0, 30))]
    result = [
        *(Object(frame, 1, 0, strip(0, 10)) for frame in (0, 1)),
        *(Object(frame, 2, 1, strip(10, 20)) for frame in (0, 1)),
    ]
    metrics = evaluate(KITTI, {"0001": truth_of(truth, 2)}, {"0001": result_of(result)}).metrics
    assert [metrics[name]["FP"] for name in KITTI.classes] == [1, 1]


def test_a_mask_of_another_class_matches_nothing_and_excuses_nothing() -> None:
    numbers = _cars([Object(0, 2001, 1, strip(0, 20))], [_car(0, 1, strip(0, 20))])
    assert (numbers["TP"], numbers["FP"], numbers["FN"]) == (0, 1, 0)


def test_annotations_of_classes_that_are_not_scored_play_no_part() -> None:
    """MOTSChallenge has one class; whatever else is annotated is neither found nor excused."""
    truth = truth_of([Object(0, 2001, 0, strip(0, 20)), Object(0, 1001, -1, strip(40, 60))], 1)
    annotations = dataclasses.replace(truth.annotations, ignored=np.zeros(2, bool))
    truth = dataclasses.replace(truth, annotations=annotations)
    found = result_of([Object(0, 1, 0, strip(0, 20)), Object(0, 2, 0, strip(40, 60))])
    numbers = evaluate(CHALLENGE, {"0001": truth}, {"0001": found}).metrics["pedestrian"]
    assert (numbers["TP"], numbers["FP"], numbers["FN"]) == (1, 1, 0)


def test_rows_and_columns() -> None:
    truths, results = _records(_scenes(3))
    report = evaluate(KITTI, truths, results)
    assert list(report.metrics) == ["car", "pedestrian"]
    names = ["sMOTSA", "MOTSA", "MOTSP", "HOTA", "DetA", "AssA", "IDF1"]
    names += ["TP", "FP", "FN", "IDS", "MT", "PT", "ML", "Frag"]
    assert [list(numbers) for numbers in report.metrics.values()] == [names, names]
    for class_name in KITTI.classes:
        for name in names[7:]:
            total = sum(table[class_name][name] for table in report.sequences.values())
            assert report.metrics[class_name][name] == total


def test_truth_scored_against_itself_is_perfect() -> None:
    truth, _ = random_scene(5, NUM_FRAMES)
    targets = [one for one in truth if one.class_index >= 0]
    metrics = evaluate(
        KITTI, {"0001": truth_of(truth, NUM_FRAMES)}, {"0001": result_of(targets)}
    ).metrics
    for numbers in metrics.values():
        scores = [numbers[name] for name in ("sMOTSA", "MOTSA", "MOTSP", "HOTA", "IDF1")]
        assert scores == pytest.approx([100.0] * 5)
        assert [numbers[name] for name in ("FP", "FN", "IDS", "PT", "ML", "Frag")] == [0] * 6


@pytest.mark.parametrize(
    ("truth", "result", "finite"),
    [
        ([], [], {}),
        ([], [_car(0, 1, strip(0, 9))], {}),
        ([_car(0, 1001, strip(0, 9))], [], {"sMOTSA": 0.0, "MOTSA": 0.0}),
    ],
    ids=["neither", "no truth", "no tracks"],
)
def test_classes_with_one_side_or_none(
    truth: Sequence[Object], result: Sequence[Object], finite: dict[str, float]
) -> None:
    report = evaluate(KITTI, {"0001": truth_of(truth, 1)}, {"0001": result_of(result)})
    numbers = report.metrics["car"]
    for name in ("sMOTSA", "MOTSA", "MOTSP"):
        value = np.inf if name == "MOTSP" else -np.inf
        assert numbers[name] == finite.get(name, value), name
    assert (numbers["FP"], numbers["FN"]) == (len(result), len(truth))
    assert '"MOTSP": null' in report.to_json()


def test_order_of_rows_and_names_of_tracks_do_not_matter() -> None:
    truths, results = _records(_scenes(4))
    rng = np.random.default_rng(0)
    shuffled_truths, shuffled_results = {}, {}
    for name, truth in truths.items():
        rows = rng.permutation(len(truth.annotations))
        shuffled_truths[name] = dataclasses.replace(
            truth, annotations=truth.annotations.select(rows)
        )
        tracks = results[name].tracks
        tracks = tracks.select(rng.permutation(len(tracks)))
        names = rng.permutation(5000)
        shuffled_results[name] = SequenceResult(
            name=name, tracks=dataclasses.replace(tracks, track_id=names[tracks.track_id])
        )
    expected = evaluate(KITTI, truths, results).metrics
    found = evaluate(KITTI, shuffled_truths, shuffled_results).metrics
    for class_name, numbers in expected.items():
        assert found[class_name] == pytest.approx(numbers, rel=1e-12)


def test_truth_prepared_once_serves_many_results() -> None:
    truths, results = _records(_scenes(6))
    name = SEQUENCES[0]
    prepared = KITTI.prepare_truth(truths[name])
    for _ in range(2):
        again = KITTI.score_prepared(prepared, results[name])
        alone = KITTI.score_sequence(truths[name], results[name])
        for class_name in KITTI.classes:
            for metric, fields in alone[class_name].items():
                np.testing.assert_equal(again[class_name][metric], fields)


def test_a_missing_sequence_is_refused() -> None:
    truths, results = _records(_scenes(1))
    del results["0006"]
    with pytest.raises(ValueError, match="no result for sequence '0006'"):
        evaluate(KITTI, truths, results)


GOOD = (_car(0, 1, strip(0, 9)), _car(1, 1, strip(0, 9)), _car(1, 2, strip(20, 30)))


def _changed(**columns: Any) -> SequenceResult:
    return SequenceResult(name="0001", tracks=dataclasses.replace(tracks_of(GOOD), **columns))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (_changed(masks=None), r"sequence '0001': the result: holds boxes without masks"),
        (
            result_of([*GOOD[:2], _car(1, 2, strip(8, 30))]),
            r"'0001', frame index 1 \(000001.png\): the result has masks that overlap, track 1 and "
            "track 2",
        ),
        (
            result_of([*GOOD[:2], Object(1, 2, 1, strip(8, 30))]),
            "masks that overlap",  # of another class
        ),
        (
            result_of([*GOOD, _car(1, 1, strip(50, 60))]),
            r"'0001', frame index 1 .*: the result has track id 1 twice",
        ),
        (
            result_of([*GOOD[:2], _car(1, 2, rectangle(0, 0, 1, 9, (48, 95)))]),
            r"'0001', frame index 1 .*: the result has a mask of \[48, 95\] pixels .*, expected "
            r"\[48, 96\]",
        ),
        (
            _changed(class_index=np.array([0, 0, 2], np.int16)),
            "'0001', frame index 1 .*: track 2 has class index 2, expected 0 to 1",
        ),
        (
            _changed(scores=np.array([1, np.nan, 1], np.float32)),
            "'0001', frame index 1 .*: track 1 has the score nan",
        ),
        (_changed(frame_index=np.array([0, 1, 2], np.int32)), "'0001': .* frame index 2"),
    ],
)
def test_results_that_cannot_be_scored_are_refused_with_the_place(
    result: SequenceResult, message: str
) -> None:
    truth = truth_of([_car(0, 1001, strip(0, 9))], 2)
    with pytest.raises(ValueError, match=message):
        evaluate(KITTI, {"0001": truth}, {"0001": result})


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (truth_of(GOOD, 2, with_masks=False), "'0001': the truth: holds boxes without masks"),
        (
            truth_of([*GOOD[:2], _car(1, 2, strip(8, 30))], 2),
            "frame index 1 .*: the truth has masks that overlap, identity 1 and identity 2",
        ),
        (
            truth_of([*GOOD, _ignored(1, strip(28, 40))], 2),
            "the truth has masks that overlap, identity 2 and the ignored region",
        ),
        (truth_of([*GOOD, _car(1, 1, strip(40, 50))], 2), "the truth has identity 1 twice"),
        (
            truth_of([*GOOD[:2], _car(1, 2, rectangle(0, 0, 1, 9, (47, 96)))], 2),
            r"frame index 1 .*: the truth has a mask of \[47, 96\] pixels",
        ),
    ],
)
def test_truth_that_cannot_be_scored_against_is_refused(truth: SequenceTruth, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(KITTI, {"0001": truth}, {"0001": result_of([])})


def test_ignored_regions_may_share_an_identity_and_overlap() -> None:
    truth = [_ignored(0, strip(0, 20)), _ignored(0, strip(10, 30))]
    assert find_overlap([one.mask for one in truth]) is not None
    assert _cars(truth, [_car(0, 1, strip(0, 30))])["FP"] == 0
