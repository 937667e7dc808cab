"""KITTI MOTS and the benchmarks that take over its formats: layout, splits, truth and results.

Labels are PNG maps (`instances/<sequence>/000000.png`) or text (`instances_txt/<sequence>.txt`);
where both are there the maps are read, because they say how long a sequence is. Images are
`images/<sequence>/000000.png`, or KITTI's own `training/image_02/<sequence>`.

The sequences of a split are those of a seqmap in the data root, named `<split>.seqmap` or
`evaluate_mots.seqmap.<split>`, else the published ones. APOLLO MOTS publishes its split in such
lists only (55 / 30 / 84 sequences), so there they are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasets.reading import ExpectedFile, Reporter, check_sequence_name, exists, numbered_files
from datasets.schema import Problem, SequenceSource
from datasets.seqmap import read_seqmap

CLASSES: Final = ("car", "pedestrian")
CAR: Final = 1
PEDESTRIAN: Final = 2
CLASS_IDS: Final[Mapping[str, int]] = {"car": CAR, "pedestrian": PEDESTRIAN}
"""Class -> its number in the files."""
VALUES_PER_CLASS: Final = 1000
"""A truth value is class * 1000 + instance: 1005 and 1000 are cars, 2003 is a pedestrian."""
IGNORE_CLASS_ID: Final = 10
IGNORE_VALUE: Final = 10000
"""Value of the ignore region, shared by all its pieces."""
IGNORE_CATEGORY: Final = "ignore"

SEQUENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "train": (
        *("0000", "0001", "0003", "0004", "0005", "0009"),
        *("0011", "0012", "0015", "0017", "0019", "0020"),
    ),
    "val": ("0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018"),
    "test": tuple(f"{number:04d}" for number in range(29)),
}
"""Published splits of KITTI MOTS; test sequences are others than training ones of the same name."""


@dataclass(frozen=True, kw_only=True)
class MotsLayout:
    """What differs between the benchmarks in the formats of KITTI MOTS."""

    name: str
    classes: tuple[str, ...]
    sequences: Mapping[str, tuple[str, ...]]
    """Split -> published sequences; empty where only a seqmap says so."""
    published_sequences: Mapping[str, int]
    """Split -> number of sequences with public labels."""
    first_frame: int = 0
    """Number of the first frame in file names and text."""
    frame_rate: float | None = None
    """Frames per second, None where it is not published."""
    reuses_names: bool = False
    """Test sequences have names of training sequences, and therefore folders of their own."""

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits; `test` has no public labels."""
        return tuple(self.sequences)

    def frame_name(self, frame_index: int) -> str:
        """File name of a frame."""
        return f"{frame_index + self.first_frame:06d}.png"


KITTI_MOTS: Final = MotsLayout(
    name="kitti_mots",
    classes=CLASSES,
    sequences=SEQUENCES,
    published_sequences={"train": 12, "val": 9},
    frame_rate=10.0,
    reuses_names=True,
)
APOLLO_MOTS: Final = MotsLayout(
    name="apollo_mots",
    classes=("car",),
    sequences={"train": (), "val": (), "test": ()},
    published_sequences={"train": 55, "val": 30},
)

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_TRAINING_FOLDERS: Final = ("images", "training/image_02")
_TEST_FOLDER: Final = "testing/image_02"
_MAPS: Final = "instances"
_TEXTS: Final = "instances_txt"
LABEL_FOLDERS: Final = (_MAPS, _TEXTS)
"""Where both have a sequence, the first is read."""
_MOST_NAMED: Final = 3


def list_sequences(
    layout: MotsLayout, data_root: Path, split: str
) -> tuple[list[SequenceSource], list[Problem]]:
    """Sequences of a split in the order of its list, and what is missing of others.

    Raises:
        ValueError: an unknown split, or a broken seqmap.
    """
    if split not in layout.splits:
        known = ", ".join(layout.splits)
        raise ValueError(f"{layout.name} has no split {split!r}, expected one of {known}")
    reporter = Reporter(strict=False)
    where = f"{layout.name}/{split}"
    names = _names_of_split(layout, data_root, split)
    if not names:
        lists = " or ".join(str(data_root / file) for file in _seqmap_names(split))
        reporter.report(where, f"no list of its sequences, expected {lists}")
    sources, absent = [], []
    for name in names:
        image_folder = find_image_folder(layout, data_root, split, name)
        labels = _label_place(layout, data_root, split, name)
        if image_folder is None and labels is None:
            absent.append(name)
            continue
        try:
            sources.append(_source(layout, split, name, image_folder, labels, reporter))
        except ValueError as error:
            reporter.report(f"{where}, sequence {name}", f"{error}; left out")
    if absent:
        first = ", ".join(absent[:_MOST_NAMED])
        what = f"{len(absent)} of {len(names)} sequences are not in {data_root} ({first} ...)"
        reporter.report(where, f"{what}, expected their images in {_folders(layout, split)}")
    return sources, reporter.problems


def expected_files(layout: MotsLayout, data_root: Path) -> list[ExpectedFile]:
    """What the data set consists of, and what of it is there."""
    rows = []
    for folders, what in (
        (_TRAINING_FOLDERS, "frames of the training and validation sequences"),
        ((_MAPS, _TEXTS), "labels: PNG maps or text"),
    ):
        there = any(exists(data_root / folder) for folder in folders)
        found = f"{what} (or {folders[1]})"
        rows.append(ExpectedFile(folders[0], found, True, there))
    if not any(layout.sequences.values()):
        for split in layout.splits:
            there = _find_seqmap(data_root, split) is not None
            what = f"list of the sequences of {split} (or {_seqmap_names(split)[1]})"
            needed = split in layout.published_sequences
            rows.append(ExpectedFile(_seqmap_names(split)[0], what, needed, there))
    if layout.reuses_names:
        what = "frames of the test sequences, for a submission"
        rows.append(ExpectedFile(_TEST_FOLDER, what, False, exists(data_root / _TEST_FOLDER)))
    return rows


def find_image_folder(layout: MotsLayout, data_root: Path, split: str, name: str) -> Path | None:
    """Folder with the images of a sequence, None where there is none."""
    folders = (data_root / folder / name for folder in _image_folders(layout, split))
    return next((folder for folder in folders if exists(folder)), None)


def _seqmap_names(split: str) -> tuple[str, str]:
    return f"{split}.seqmap", f"evaluate_mots.seqmap.{split}"


def _find_seqmap(data_root: Path, split: str) -> Path | None:
    files = (data_root / name for name in _seqmap_names(split))
    return next((file for file in files if file.is_file()), None)


def _names_of_split(layout: MotsLayout, data_root: Path, split: str) -> tuple[str, ...]:
    seqmap = _find_seqmap(data_root, split)
    if seqmap is None:
        return layout.sequences[split]
    return tuple(read_seqmap(seqmap, first_frame=layout.first_frame))


def _image_folders(layout: MotsLayout, split: str) -> tuple[str, ...]:
    if split != "test":
        return _TRAINING_FOLDERS
    return (_TEST_FOLDER,) if layout.reuses_names else (*_TRAINING_FOLDERS, _TEST_FOLDER)


def _folders(layout: MotsLayout, split: str) -> str:
    return " or ".join(_image_folders(layout, split))


def _label_place(layout: MotsLayout, data_root: Path, split: str, name: str) -> Path | None:
    """Folder of maps or text file of a sequence."""
    if split == "test" and layout.reuses_names:
        return None
    places = (data_root / _MAPS / name, data_root / _TEXTS / f"{name}.txt")
    return next((place for place in places if exists(place)), None)


def _source(
    layout: MotsLayout,
    split: str,
    name: str,
    image_folder: Path | None,
    labels: Path | None,
    reporter: Reporter,
) -> SequenceSource:
    if labels is None and split != "test":
        raise ValueError(f"no labels in {_MAPS}/{name} and {_TEXTS}/{name}.txt")
    images: dict[int, Path] = {}
    if image_folder is not None:
        first = layout.first_frame
        images = numbered_files(image_folder, IMAGE_SUFFIXES, reporter, first_frame=first)
    if image_folder is None or not images:
        raise ValueError(f"no image in {_folders(layout, split)}")
    # A lost image keeps its place: ingest tells of it when it looks for the file.
    suffix = next(iter(images.values())).suffix
    paths = [
        images.get(index, (image_folder / layout.frame_name(index)).with_suffix(suffix))
        for index in range(max(images) + 1)
    ]
    return SequenceSource(
        dataset=layout.name,
        split=split,
        name=check_sequence_name(name, str(image_folder)),
        images=tuple(map(str, paths)),
        labels=None if labels is None else str(labels),
        options={} if layout.frame_rate is None else {"frame_rate": layout.frame_rate},
    )
