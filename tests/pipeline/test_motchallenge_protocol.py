"""MOTChallenge scoring against trackeval's own dataset class, from the same files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trackeval

from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate
from pipeline.metrics.motchallenge import MotChallengeProtocol

NUM_FRAMES = 30
SEQUENCES = ("MOT-01", "MOT-02", "MOT-03")

FIELDS = {
    "HOTA": ("HOTA", "HOTA"),
    "DetA": ("HOTA", "DetA"),
    "AssA": ("HOTA", "AssA"),
    "MOTA": ("CLEAR", "MOTA"),
    "MOTP": ("CLEAR", "MOTP"),
    "IDF1": ("Identity", "IDF1"),
    "FP": ("CLEAR", "CLR_FP"),
    "FN": ("CLEAR", "CLR_FN"),
    "IDSw": ("CLEAR", "IDSW"),
    **{name: ("CLEAR", name) for name in ("MT", "PT", "ML", "Frag")},
}


def _write_files(root: Path, seed: int, *, has_classes: bool) -> None:
    """Crowded scenes of all categories with flags 0 and 1; predictions near most of the boxes."""
    for sequence in SEQUENCES:
        rng = np.random.default_rng([seed, *sequence.encode()])
        truth_lines, result_lines = [], []
        categories = rng.integers(1, 14, 16) * (rng.random(16) < 0.7)
        for frame in range(1, NUM_FRAMES + 1):
            false = [(f"{900 + i}", *rng.uniform(0, 300, 2), 50, 90) for i in range(2)]
            rows: list[tuple[Any, ...]] = list(false)
            for identity, category in enumerate(categories, 1):
                if rng.random() < 0.2:
                    continue
                left, top = 20 * identity + frame, 10 * (identity % 5) + rng.integers(0, 4)
                flag = int(rng.random() < 0.8)
                kind = category or 1
                tail = f"{kind},0.5" if has_classes else "-1,-1,-1"
                truth_lines.append(f"{frame},{identity},{left},{top},40,80,{flag},{tail}")
                if rng.random() < 0.8:
                    track = identity + 100 * (frame // 11)
                    rows.append((track, *(np.array([left, top]) + rng.normal(0, 6, 2)), 40, 80))
            for track, *box in rows:
                values = ",".join(f"{value:.2f}" for value in box)
                result_lines.append(f"{frame},{track},{values},1,-1,-1,-1")
        folder = root / "gt" / sequence
        (folder / "gt").mkdir(parents=True)
        (folder / "gt" / "gt.txt").write_text("\n".join(truth_lines))
        (folder / "seqinfo.ini").write_text(
            f"[Sequence]\nname={sequence}\nseqLength={NUM_FRAMES}\nimExt=.jpg\nframeRate=30\n"
        )
        results = root / "results" / "ours" / "data"
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{sequence}.txt").write_text("\n".join(result_lines))


def _score_with_trackeval(root: Path, benchmark: str) -> dict[str, Any]:
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(root / "gt"),
            "TRACKERS_FOLDER": str(root / "results"),
            "TRACKERS_TO_EVAL": ["ours"],
            "BENCHMARK": benchmark,
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": dict.fromkeys(SEQUENCES),
            "PRINT_CONFIG": False,
        }
    )
    quiet = {"PRINT_CONFIG": False}
    metrics = {
        "HOTA": trackeval.metrics.HOTA(),
        "CLEAR": trackeval.metrics.CLEAR(quiet),
        "Identity": trackeval.metrics.Identity(quiet),
    }
    scores: dict[str, Any] = {}
    for sequence in SEQUENCES:
        raw = dataset.get_raw_seq_data("ours", sequence)
        data = dataset.get_preprocessed_seq_data(raw, "pedestrian")
        scores[sequence] = {name: metric.eval_sequence(data) for name, metric in metrics.items()}
    scores["all"] = {
        name: metric.combine_sequences({s: scores[s][name] for s in SEQUENCES})
        for name, metric in metrics.items()
    }
    return scores


@pytest.mark.parametrize("benchmark", ["mot15", "mot17", "mot20"])
@pytest.mark.parametrize("seed", [1, 2])
def test_equal_to_trackeval_on_files(benchmark: str, seed: int, tmp_path: Path) -> None:
    _write_files(tmp_path, seed, has_classes=benchmark != "mot15")
    expected = _score_with_trackeval(tmp_path, benchmark.upper())
    reader = BENCHMARKS[benchmark]
    report = evaluate(
        build_protocol(EvaluationConfig(protocol=benchmark)),
        reader.read_truth(tmp_path / "gt"),
        reader.read_results(tmp_path / "results" / "ours" / "data"),
    )
    for sequence, scores in expected.items():
        table = report.metrics if sequence == "all" else report.sequences[sequence]
        for name, (metric, field) in FIELDS.items():
            found, value = table["pedestrian"][name], np.mean(scores[metric][field])
            if isinstance(found, int):
                assert found == value, (sequence, name)
            else:
                assert found == pytest.approx(100 * value, rel=1e-12), (sequence, name)
    assert report.metrics["pedestrian"]["FP"] > 0


BOX = (0.0, 0.0, 40.0, 80.0)
FAR = (200.0, 0.0, 240.0, 80.0)


@pytest.mark.parametrize(
    ("category", "benchmark", "num_left"),
    [
        ("static_person", "mot17", 0),
        ("person_on_vehicle", "mot17", 0),
        ("distractor", "mot20", 0),
        ("reflection", "mot20", 0),
        ("non_mot_vehicle", "mot17", 1),  # a distractor of MOT20 only
        ("non_mot_vehicle", "mot20", 0),
        ("car", "mot17", 1),  # no excuse: the prediction is a false positive
        ("crowd", "mot20", 1),
        ("static_person", "mot15", 1),  # never pre-processed
    ],
)
def test_which_boxes_excuse_a_prediction(
    category: str,
    benchmark: str,
    num_left: int,
    make_truth: Callable[..., SequenceTruth],
    make_result: Callable[..., SequenceResult],
) -> None:
    truth = make_truth([(0, 1, -1, BOX)], 1, categories=[category])
    prepared = MotChallengeProtocol(benchmark).prepare(truth, make_result([(0, 1, 0, BOX)]))
    assert prepared["pedestrian"]["CLEAR"].num_tracks == num_left


def test_a_prediction_that_fits_a_pedestrian_better_is_not_excused(
    make_truth: Callable[..., SequenceTruth], make_result: Callable[..., SequenceResult]
) -> None:
    rows = [(0, 1, 0, BOX), (0, 2, -1, (0.0, 10.0, 40.0, 90.0))]
    truth = make_truth(rows, 1, categories=["pedestrian", "static_person"])
    [left] = MotChallengeProtocol("mot17").prepare(truth, make_result([(0, 1, 0, BOX)])).values()
    assert left["HOTA"].num_tracks == 1


def test_a_flag_of_zero_excuses_before_it_is_dropped(
    make_truth: Callable[..., SequenceTruth], make_result: Callable[..., SequenceResult]
) -> None:
    """A pedestrian that is not evaluated is no target, and a prediction on it is an error."""
    rows = [(0, 1, 0, BOX, "ignored"), (0, 2, -1, FAR, "ignored")]
    truth = make_truth(rows, 1, categories=["pedestrian", "static_person"])
    result = make_result([(0, 1, 0, BOX), (0, 2, 0, FAR)])
    [left] = MotChallengeProtocol("mot17").prepare(truth, result).values()
    assert (left["HOTA"].num_truth, left["HOTA"].num_tracks) == (0, 1)


def test_an_empty_result_is_valid_and_a_missing_one_is_not(
    make_truth: Callable[..., SequenceTruth], make_result: Callable[..., SequenceResult]
) -> None:
    protocol = MotChallengeProtocol("mot17")
    truths = {"a": make_truth([(0, 1, 0, BOX)], 1, categories=["pedestrian"])}
    report = evaluate(protocol, truths, {"a": make_result([])})
    assert report.metrics["pedestrian"]["FN"] == 1
    with pytest.raises(ValueError, match=r"no result for sequence 'a'.*empty file is a valid"):
        evaluate(protocol, truths, {})


def test_the_same_identity_twice_in_the_truth_is_refused(
    make_truth: Callable[..., SequenceTruth], make_result: Callable[..., SequenceResult]
) -> None:
    truth = make_truth([(0, 7, 0, BOX), (0, 7, -1, FAR)], 1, categories=["pedestrian", "car"])
    with pytest.raises(ValueError, match=r"frame index 0 .* the truth has identity 7 twice"):
        MotChallengeProtocol("mot17").prepare(truth, make_result([]))
