"""The benchmarks by name: everything that a stage needs to know of one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from datasets import (
    bdd100k,
    bdd100k_mots,
    kins,
    kitti_mots,
    motchallenge,
    mots_challenge,
    mots_reading,
)
from datasets.reading import ExpectedFile
from datasets.schema import Problem, SequenceResult, SequenceSource, SequenceTruth


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark: its classes and splits, and the readers of its files.

    Readers for scoring are strict: anything broken is a ValueError with the place. Readers for
    ingest report problems and go on.
    """

    name: str
    classes: tuple[str, ...]
    """Evaluated classes; `class_index` of every record counts in this order."""
    super_classes: Mapping[str, tuple[str, ...]]
    """Groups of classes that are scored together as well."""
    splits: tuple[str, ...]
    published_sequences: Mapping[str, int]
    """Split -> sequences with frames and labels in the published data set, where that is one
    number; the doctor compares."""
    list_sequences: Callable[[Path, str], tuple[list[SequenceSource], list[Problem]]]
    """(data root, split) -> sequences by name, and what is missing of others."""
    read_annotations: Callable[[SequenceSource], tuple[SequenceTruth, list[Problem]]]
    """Labels of one sequence for ingest; the ValueError of an unusable label file names it."""
    read_truth: Callable[[Path], dict[str, SequenceTruth]]
    """Truth files for scoring, by sequence name."""
    read_results: Callable[[Path], dict[str, SequenceResult]]
    """Anybody's result files for scoring, by sequence name."""
    expected_files: Callable[[Path], list[ExpectedFile]]
    """Data root -> what the data set consists of, and what of it is there."""

    def class_index(self, class_name: str) -> int:
        """Place of a class among `classes`.

        Raises:
            ValueError: no such class; names those that there are.
        """
        if class_name not in self.classes:
            raise ValueError(
                f"{self.name} has no class {class_name!r}, expected one of "
                f"{', '.join(self.classes)}"
            )
        return self.classes.index(class_name)


def _motchallenge(name: str) -> Benchmark:
    return Benchmark(
        name=name,
        classes=motchallenge.CLASSES,
        super_classes={},
        splits=motchallenge.SPLITS[name],
        # Copies differ: MOT17 is handed on with one or with three detectors a sequence.
        published_sequences={},
        list_sequences=partial(motchallenge.list_sequences, name),
        read_annotations=motchallenge.read_annotations,
        read_truth=partial(motchallenge.read_truth, name),
        read_results=motchallenge.read_results,
        expected_files=motchallenge.expected_files,
    )


def _kitti_mots(layout: kitti_mots.MotsLayout) -> Benchmark:
    return Benchmark(
        name=layout.name,
        classes=layout.classes,
        super_classes={},
        splits=layout.splits,
        published_sequences=layout.published_sequences,
        list_sequences=partial(kitti_mots.list_sequences, layout),
        read_annotations=partial(mots_reading.read_annotations, layout),
        read_truth=partial(mots_reading.read_truth, layout),
        read_results=partial(mots_reading.read_results, layout),
        expected_files=partial(kitti_mots.expected_files, layout),
    )


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "bdd100k": Benchmark(
        name=bdd100k.NAME,
        classes=bdd100k.CLASSES,
        super_classes=bdd100k.SUPER_CLASSES,
        splits=bdd100k.SPLITS,
        published_sequences=bdd100k.PUBLISHED_SEQUENCES,
        list_sequences=bdd100k.list_sequences,
        read_annotations=bdd100k.read_annotations,
        read_truth=bdd100k.read_truth,
        read_results=bdd100k.read_results,
        expected_files=bdd100k.expected_files,
    ),
    "mot15": _motchallenge("mot15"),
    "mot17": _motchallenge("mot17"),
    "mot20": _motchallenge("mot20"),
    "kitti_mots": _kitti_mots(kitti_mots.KITTI_MOTS),
    "apollo_mots": _kitti_mots(kitti_mots.APOLLO_MOTS),
    "mots_challenge": Benchmark(
        name=mots_challenge.LAYOUT.name,
        classes=mots_challenge.CLASSES,
        super_classes={},
        splits=mots_challenge.SPLITS,
        published_sequences=mots_challenge.LAYOUT.published_sequences,
        list_sequences=mots_challenge.list_sequences,
        read_annotations=mots_challenge.read_annotations,
        read_truth=mots_challenge.read_truth,
        read_results=mots_challenge.read_results,
        expected_files=mots_challenge.expected_files,
    ),
    "bdd100k_mots": Benchmark(
        name=bdd100k_mots.NAME,
        classes=bdd100k.CLASSES,
        super_classes=bdd100k.SUPER_CLASSES,
        splits=bdd100k_mots.SPLITS,
        published_sequences=bdd100k_mots.PUBLISHED_SEQUENCES,
        list_sequences=bdd100k_mots.list_sequences,
        read_annotations=bdd100k_mots.read_annotations,
        read_truth=bdd100k_mots.read_truth,
        read_results=bdd100k_mots.read_results,
        expected_files=bdd100k_mots.expected_files,
    ),
    "kins": Benchmark(
        name=kins.NAME,
        classes=kins.CLASSES,
        super_classes={},
        splits=kins.SPLITS,
        published_sequences={},  # stills
        list_sequences=kins.list_sequences,
        read_annotations=kins.read_annotations,
        read_truth=kins.read_truth,
        read_results=kins.read_results,
        expected_files=kins.expected_files,
    ),
}
