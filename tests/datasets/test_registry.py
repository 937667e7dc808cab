"""The table of benchmarks."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import datasets
from datasets.registry import BENCHMARKS


def test_names() -> None:
    assert list(BENCHMARKS) == [
        *("bdd100k", "mot15", "mot17", "mot20"),
        *("kitti_mots", "apollo_mots", "mots_challenge", "bdd100k_mots", "kins"),
    ]
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())


def test_classes_of_bdd100k_are_in_the_official_order() -> None:
    benchmark = BENCHMARKS["bdd100k"]
    official = ["pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert list(benchmark.classes) == official
    assert [c for group in benchmark.super_classes.values() for c in group] == official


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_split_can_be_listed_where_nothing_is(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS[name]
    for split in benchmark.splits:
        sources, problems = benchmark.list_sequences(tmp_path, split)
        assert (sources, len(problems)) == ([], 1)
    assert any(file.required and not file.exists for file in benchmark.expected_files(tmp_path))


def test_benchmarks_travel_to_workers() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert pickle.loads(pickle.dumps(benchmark)).name == name


def test_readers_start_without_torch_or_video(repository: Path) -> None:
    # Scoring files must start in a moment.
    code = (
        "import sys, datasets.registry; "
        "print([m for m in ('torch', 'av', 'ray', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_datasets_is_ours(repository: Path) -> None:
    # The name is Hugging Face's, too.
    assert datasets.__file__ is not None
    assert Path(datasets.__file__).resolve().parent == repository / "datasets"
