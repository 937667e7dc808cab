"""MOTSChallenge (MOTS20): KITTI MOTS text and maps of pedestrians only, frames counted from 1.

Two layouts are read. MOTChallenge's: `train/MOTS20-02/{img1,gt/gt.txt,seqinfo.ini}` and
`test/MOTS20-01/...` without `gt`, whose sequences are whatever folders are there and whose lengths
stand in `seqinfo.ini`. And that of KITTI MOTS: `images/0002/000001.jpg`, `instances/0002`,
`instances_txt/0002.txt`, with the sequences of a seqmap or the published ones.

Unverified on files: the first layout (it is that of MOT17, with lines of KITTI MOTS in `gt.txt`),
and the names of the test sequences in the second one.
"""

from pathlib import Path
from typing import Final

from datasets import kitti_mots, motchallenge, mots_reading
from datasets.kitti_mots import MotsLayout
from datasets.mots_rows import annotations_of, truth_rules
from datasets.mots_text import read_rows
from datasets.reading import ExpectedFile, Reporter
from datasets.schema import Problem, SequenceResult, SequenceSource, SequenceTruth

LAYOUT: Final = MotsLayout(
    name="mots_challenge",
    classes=("pedestrian",),
    sequences={
        "train": ("0002", "0005", "0009", "0011"),
        "test": ("0001", "0006", "0007", "0012"),
    },
    published_sequences={"train": 4},
    first_frame=1,
)
CLASSES: Final = LAYOUT.classes
SPLITS: Final = LAYOUT.splits

_INFO: Final = "seqinfo.ini"
_TRUTH: Final = "gt/gt.txt"


def list_sequences(data_root: Path, split: str) -> tuple[list[SequenceSource], list[Problem]]:
    """Sequences of a split, and what is missing of others.

    Raises:
        ValueError: an unknown split, or a broken seqmap.
    """
    if split in SPLITS and _sequence_folders(data_root / split):
        return motchallenge.list_sequences(LAYOUT.name, data_root, split)
    return kitti_mots.list_sequences(LAYOUT, data_root, split)


def read_annotations(source: SequenceSource) -> tuple[SequenceTruth, list[Problem]]:
    """Annotations of a sequence, and the objects and maps that are broken and left out.

    Raises:
        ValueError: `seqinfo.ini` or the labels as a whole cannot be used; names it.
    """
    assert source.labels is not None, "a split without public labels has no annotations"
    path = Path(source.labels)
    if not _is_in_sequence_folder(path):
        return mots_reading.read_annotations(LAYOUT, source)
    reporter = Reporter(strict=False)
    return _read_folder(path.parent.parent, reporter), reporter.problems


def read_truth(path: Path) -> dict[str, SequenceTruth]:
    """Ground truth by sequence name.

    Args:
        path: A sequence folder or a folder of them; or whatever KITTI MOTS truth may be.

    Raises:
        ValueError: no labels, or anything broken, with file, line and frame.
    """
    folders = [path] if (path / _TRUTH).exists() else _sequence_folders(path)
    if not folders:
        return mots_reading.read_truth(LAYOUT, path)
    reporter = Reporter(strict=True)
    return {folder.name: _read_folder(folder, reporter) for folder in folders}


def read_results(path: Path) -> dict[str, SequenceResult]:
    """Results of every `<sequence>.txt` in a folder, or of every folder of maps, by sequence name.

    Raises:
        ValueError: a class other than pedestrian, or anything broken, with file, line and frame.
    """
    return mots_reading.read_results(LAYOUT, path)


def expected_files(data_root: Path) -> list[ExpectedFile]:
    """What the data set consists of, and what of it is there."""
    if any(_sequence_folders(data_root / split) for split in SPLITS):
        return motchallenge.expected_files(data_root)
    return kitti_mots.expected_files(LAYOUT, data_root)


def _read_folder(folder: Path, reporter: Reporter) -> SequenceTruth:
    info = motchallenge.read_info(folder)
    rows = []
    for row in read_rows(folder / _TRUTH, truth_rules(LAYOUT.first_frame), reporter):
        if row.frame_index < info.num_frames:
            rows.append(row)
        else:
            reporter.report(
                row.place, f"behind the last of {info.num_frames} frames, the seqLength"
            )
    return SequenceTruth(
        name=folder.name,
        frame_names=tuple(info.frame_name(index) for index in range(info.num_frames)),
        annotations=annotations_of(rows, CLASSES),
    )


def _is_in_sequence_folder(labels: Path) -> bool:
    return labels.match(_TRUTH) and (labels.parent.parent / _INFO).exists()


def _sequence_folders(folder: Path) -> list[Path]:
    """Folders in MOTChallenge's layout, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{_INFO}"))
