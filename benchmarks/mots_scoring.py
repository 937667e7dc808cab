"""How fast results of segmentation tracking are scored, against trackeval on the same files.

Makes up truth and results of the size of KITTI MOTS val (9 sequences, 2,981 frames of 375 x 1242
pixels, cars and pedestrians, ignored regions), writes them in trackeval's layout, and has both
read and score them in this process: HOTA, CLEAR and identities of two classes on trackeval's side
(its KittiMOTS), the same and the official counting on ours. Both must give the same scores.
Reading is told apart: it checks that masks are disjoint on both sides, and that every code is whole
on ours only. Ours checks again when it scores, whatever the records come from.

    python -m benchmarks.mots_scoring
    python -m benchmarks.mots_scoring --num-sequences 3
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trackeval
from pycocotools import mask as coco

from datasets.masks import Rle, mask_areas, remove_overlaps
from datasets.mots_text import mots_lines
from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.evaluate import EvaluationConfig, EvaluationReport, build_protocol, evaluate

LENGTHS = {
    **{"0002": 233, "0006": 270, "0007": 800, "0008": 390, "0010": 294},
    **{"0013": 340, "0014": 106, "0016": 209, "0018": 339},
}
"""Frames of the validation sequences."""
HEIGHT, WIDTH = 375, 1242
CLASSES = BENCHMARKS["kitti_mots"].classes
CLASS_IDS = (1, 2, 10)
SIZES = ((16, 70, 20, 95), (25, 90, 10, 35), (20, 45, 30, 120))
"""Least and greatest height and width of a car, a pedestrian, an ignored region, in pixels."""
NUM_AT_A_TIME = (2.5, 1.15, 0.7)
"""Masks a frame, as KITTI MOTS val has them: 2.7 cars and 1.1 pedestrians are left visible."""
TARGET = 3.0

Line = tuple[int, int, int, Rle]
"""Frame index, id, number of the class, mask."""

FIELDS = {
    **{name: ("HOTA", name) for name in ("HOTA", "DetA", "AssA")},
    **{"sMOTSA": ("CLEAR", "sMOTA"), "MOTSA": ("CLEAR", "MOTA"), "MOTSP": ("CLEAR", "MOTP")},
    "IDF1": ("Identity", "IDF1"),
    **{"TP": ("CLEAR", "CLR_TP"), "FP": ("CLEAR", "CLR_FP"), "FN": ("CLEAR", "CLR_FN")},
    "IDS": ("CLEAR", "IDSW"),
    **{name: ("CLEAR", name) for name in ("MT", "PT", "ML")},
}
"""What both have; fragments follow rules of their own."""


def make_sequence(name: str, num_frames: int) -> tuple[list[Line], list[Line]]:
    """Truth and a flawed result of a sequence.

    Objects live 15 to 80 frames and move on straight lines; the nearer (lower) ones hide the
    others. Results have other borders, one mask in twelve is missed, one in fifteen is false (some
    in ignored regions), and ids change every 40 frames.
    """
    rng = np.random.default_rng([7, *name.encode()])
    truth: dict[int, list[tuple[int, int, Rle]]] = {frame: [] for frame in range(num_frames)}
    result: dict[int, list[tuple[int, int, Rle]]] = {frame: [] for frame in range(num_frames)}
    for kind, density in enumerate(NUM_AT_A_TIME):
        for instance, frames in enumerate(_lives(rng, num_frames, density)):
            shape = _Shape(rng, SIZES[kind])
            value = 1000 * CLASS_IDS[kind] + instance
            for age, frame in enumerate(frames):
                truth[frame].append((value, kind, shape.at(age)))
                seen = kind < 2 and rng.random() < 11 / 12
                if seen or (kind == 2 and rng.random() < 0.3):
                    track = 10_000 * kind + 20 * instance + frame // 40 + 1
                    result[frame].append((track, min(kind, 1), shape.at(age, noise=rng)))
    for frame in range(num_frames):
        if rng.random() < 0.25:
            false = _Shape(rng, SIZES[1]).at(0)
            result[frame].append((100_000 + frame, int(rng.integers(2)), false))
    return [*_disjoint_lines(truth)], [*_disjoint_lines(result)]


class _Shape:
    """A blob with a wavy border on its way."""

    def __init__(self, rng: np.random.Generator, size: Sequence[int]) -> None:
        least_height, most_height, least_width, most_width = size
        self._radii = 0.5 * np.array(
            [rng.uniform(least_width, most_width), rng.uniform(least_height, most_height)]
        )
        self._centre = rng.uniform([0, 150], [WIDTH, 300])
        self._step = rng.normal(0, [3.0, 0.4])
        self._angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        self._waves = 1 + 0.12 * rng.standard_normal(40)

    def at(self, age: int, noise: np.random.Generator | None = None) -> Rle:
        waves = self._waves
        centre = self._centre + age * self._step
        if noise is not None:
            waves = waves + 0.06 * noise.standard_normal(40)
            centre = centre + 0.05 * self._radii * noise.standard_normal(2)
        circle = np.stack([np.cos(self._angles), np.sin(self._angles)], axis=1)
        points = centre + self._radii * waves[:, None] * circle
        points = np.clip(points, 0, [WIDTH, HEIGHT])
        (code,) = coco.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)
        mask: Rle = code
        return mask


def _lives(rng: np.random.Generator, num_frames: int, density: float) -> Iterator[range]:
    for _ in range(round(density * num_frames / 40)):
        start = int(rng.integers(-30, num_frames))
        length = int(rng.integers(15, 81))
        yield range(max(0, start), min(num_frames, start + length))


def _disjoint_lines(frames: Mapping[int, list[tuple[int, int, Rle]]]) -> Iterator[Line]:
    for frame, objects in frames.items():
        masks = [mask for _, _, mask in objects]
        # What is ignored is painted last, the nearest object first.
        scores = [
            float(-place if kind == 2 else place) for place, (_, kind, _) in enumerate(objects)
        ]
        disjoint = remove_overlaps(masks, np.array(scores))
        for (value, kind, _), mask, area in zip(
            objects, disjoint, mask_areas(disjoint).tolist(), strict=True
        ):
            if area:
                yield frame, value, CLASS_IDS[kind], mask


def write_files(root: Path, lengths: Mapping[str, int]) -> int:
    """Files as trackeval's KittiMOTS wants them; returns the number of masks."""
    truth_folder, result_folder = root / "gt" / "label_02", root / "results" / "ours" / "data"
    for folder in (truth_folder, result_folder):
        folder.mkdir(parents=True)
    num_masks = 0
    for name, num_frames in lengths.items():
        for folder, lines in zip(
            (truth_folder, result_folder), make_sequence(name, num_frames), strict=True
        ):
            columns = zip(*lines, strict=True)
            (folder / f"{name}.txt").write_text("".join(mots_lines(*columns)))
            num_masks += len(lines)
    entries = (f"{name} empty 000000 {length - 1:06d}\n" for name, length in lengths.items())
    (root / "gt" / "evaluate_mots.seqmap.val").write_text("".join(entries))
    return num_masks


class TimedKittiMOTS(trackeval.datasets.KittiMOTS):  # type: ignore[misc]  # trackeval has no types
    """Knows how long it read files, which with trackeval is one with comparing the masks."""

    reading_s = 0.0

    def _load_raw_file(self, tracker: str, seq: str, is_gt: bool) -> Any:
        seconds, raw = _cpu_time(partial(super()._load_raw_file, tracker, seq, is_gt))
        self.reading_s += seconds
        return raw


def score_with_trackeval(root: Path) -> tuple[float, dict[str, dict[str, Any]]]:
    """Seconds of reading, and fields of trackeval's metrics over all sequences, by class."""
    quiet = {"PRINT_CONFIG": False}
    dataset = TimedKittiMOTS(
        {"GT_FOLDER": str(root / "gt"), "TRACKERS_FOLDER": str(root / "results"), **quiet}
    )
    metrics = {
        "HOTA": trackeval.metrics.HOTA(),
        # The official tool wants more than 0.5, trackeval is content with exactly that.
        "CLEAR": trackeval.metrics.CLEAR(quiet | {"THRESHOLD": 0.5 + 1e-9}),
        "Identity": trackeval.metrics.Identity(quiet),
    }
    scores: dict[str, Any] = {class_name: {m: {} for m in metrics} for class_name in CLASSES}
    for name in dataset.seq_list:
        raw = dataset.get_raw_seq_data("ours", name)
        for class_name in CLASSES:
            data = dataset.get_preprocessed_seq_data(raw, class_name)
            for metric, rules in metrics.items():
                scores[class_name][metric][name] = rules.eval_sequence(data)
    return dataset.reading_s, {
        class_name: {m: metrics[m].combine_sequences(found) for m, found in by_metric.items()}
        for class_name, by_metric in scores.items()
    }


def read_files(root: Path) -> tuple[dict[str, SequenceTruth], dict[str, SequenceResult]]:
    """The same files by our readers, which check every mask."""
    benchmark = BENCHMARKS["kitti_mots"]
    return (
        benchmark.read_truth(root / "gt" / "label_02"),
        benchmark.read_results(root / "results" / "ours" / "data"),
    )


def check_equal(report: EvaluationReport, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare all numbers that both have."""
    for class_name in CLASSES:
        for name, (metric, field) in FIELDS.items():
            found, value = (
                report.metrics[class_name][name],
                np.mean(expected[class_name][metric][field]),
            )
            if isinstance(found, int):
                assert found == value, (class_name, name, found, value)
            else:
                np.testing.assert_allclose(found, 100 * value, rtol=1e-12, err_msg=name)


def main() -> None:
    """Print figures and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-sequences", type=int, default=len(LENGTHS), help="of the nine")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; the best counts")
    arguments = parser.parse_args()
    lengths = dict(list(LENGTHS.items())[: arguments.num_sequences])
    protocol = build_protocol(EvaluationConfig(protocol="kitti_mots"))
    ours, peer = _Times(), _Times()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        num_masks = write_files(root, lengths)
        for _ in range(arguments.repeats):  # in turns: whatever else runs here disturbs both
            seconds, (reading_s, expected) = _cpu_time(partial(score_with_trackeval, root))
            peer.add(reading_s, seconds - reading_s)
            reading_s, records = _cpu_time(partial(read_files, root))
            scoring_s, report = _cpu_time(partial(evaluate, protocol, *records))
            ours.add(reading_s, scoring_s)
            check_equal(report, expected)
    num_frames = sum(lengths.values())
    print(f"{len(lengths)} sequences, {num_frames} frames, {num_masks} masks of truth and results")
    for class_name, numbers in report.metrics.items():
        shown = (f"{name} {numbers[name]:.2f}" for name in ("sMOTSA", "MOTSA", "MOTSP", "HOTA"))
        print(f"{class_name}: {', '.join(shown)}, IDS {numbers['IDS']}; equal to trackeval's")
    print("one core, CPU time:   ours  trackeval  ratio")
    for what, target in (("reading", ""), ("scoring", ""), ("both", f"  (target {TARGET:g})")):
        times = ours.best(what), peer.best(what)
        print(f"{what:18}{times[0]:6.2f} s{times[1]:9.2f} s{times[1] / times[0]:7.1f}{target}")


class _Times:
    """Seconds of each run."""

    def __init__(self) -> None:
        self._runs: dict[str, list[float]] = {"reading": [], "scoring": [], "both": []}

    def add(self, reading_s: float, scoring_s: float) -> None:
        for what, seconds in zip(
            self._runs, (reading_s, scoring_s, reading_s + scoring_s), strict=True
        ):
            self._runs[what].append(seconds)

    def best(self, what: str) -> float:
        return min(self._runs[what])


def _cpu_time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
