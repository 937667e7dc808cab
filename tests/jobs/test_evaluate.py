"""The scoring command: what it prints and writes, and that it never skips what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.registry import BENCHMARKS
from jobs import command, evaluate
from pipeline.evaluate import PROTOCOLS
from tests.mots_files import Object, random_scene, strip, write_text

Edit = Callable[[list[dict[str, Any]]], Any]


@pytest.fixture
def truth_path(shared: Path) -> Path:
    return shared / "data/bdd100k_box_track/gt.json"


@pytest.fixture
def results(shared: Path) -> list[dict[str, Any]]:
    """The sample's result, to be broken."""
    content: list[dict[str, Any]] = json.loads(
        (shared / "data/bdd100k_box_track/results.json").read_text()
    )
    return content


def _score(truth: Path, results: Path, *further: str) -> int:
    arguments = ["--benchmark", "bdd100k", "--truth", str(truth), "--results", str(results)]
    return command.run(evaluate.main, [*arguments, *further])


def test_names_of_benchmarks() -> None:
    assert sorted(BENCHMARKS) == list(command.BENCHMARKS)
    assert list(command.SCORED) == sorted(set(BENCHMARKS) & set(PROTOCOLS))


def test_table_on_stdout_and_report_in_a_file(
    truth_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_path = tmp_path / "new" / "scores.json"
    results_path = truth_path.with_name("results.json")
    assert _score(truth_path, results_path, "--json", str(report_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1"),
        *("FP", "FN", "IDSw", "MT", "PT", "ML", "FM"),
    ]
    overall = next(line.split() for line in lines if line.startswith("OVERALL"))
    assert overall[4:] == ["64.201", "87.161", "71.011", "126", "942", "45", "62", "47", "33", "66"]
    assert lines[-1].startswith("bdd100k rules on 1 sequence(s), trackeval 1.")
    report = json.loads(report_path.read_text())
    assert report.keys() == {"metrics", "sequences", "evaluator"}
    assert report["evaluator"].keys() == {"protocol", "trackeval", "quasar"}
    assert report["sequences"].keys() == {"b1c66a42-6f7d68ca"}
    assert report["sequences"]["b1c66a42-6f7d68ca"] == report["metrics"]
    assert report["metrics"]["train"]["MOTA"] is None
    assert os.listdir(report_path.parent) == ["scores.json"]


def test_folders_of_files_score_as_one_file(truth_path: Path, tmp_path: Path) -> None:
    for kind, source in (("truth", "gt.json"), ("results", "results.json")):
        (tmp_path / kind).mkdir()
        target = tmp_path / kind / "b1c66a42-6f7d68ca.json"
        target.write_bytes(truth_path.with_name(source).read_bytes())
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert _score(truth_path, truth_path.with_name("results.json"), "--json", str(one)) == 0
    assert _score(tmp_path / "truth", tmp_path / "results", "--json", str(two)) == 0
    assert one.read_bytes() == two.read_bytes()


@pytest.fixture
def kitti_mots(tmp_path: Path) -> Path:
    """Truth and results of two short sequences, in folders of those names."""
    for seed, name in enumerate(("0002", "0006")):
        truth, result = random_scene(seed, 8)
        write_text(tmp_path / "truth" / f"{name}.txt", truth)
        write_text(tmp_path / "results" / f"{name}.txt", result)
    seqmap = "".join(f"{name} empty 000000 000007\n" for name in ("0002", "0006"))
    (tmp_path / "truth" / "val.seqmap").write_text(seqmap)
    return tmp_path


def _score_masks(folder: Path, *further: str) -> int:
    arguments = ["--truth", str(folder / "truth"), "--results", str(folder / "results")]
    return command.run(evaluate.main, ["--benchmark", "kitti_mots", *arguments, *further])


def test_masks_are_scored_by_class(kitti_mots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_path = kitti_mots / "scores.json"
    assert _score_masks(kitti_mots, "--json", str(report_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["sMOTSA", "MOTSA", "MOTSP", "HOTA", "DetA", "AssA", "IDF1"]
    names += ["TP", "FP", "FN", "IDS", "MT", "PT", "ML", "Frag"]
    assert lines[0].split() == names
    assert [line.split()[0] for line in lines[1:3]] == ["car", "pedestrian"]
    assert lines[-1].startswith("kitti_mots rules on 2 sequence(s), trackeval 1.")
    report = json.loads(report_path.read_text())
    assert list(report["metrics"]["car"]) == names
    assert list(report["sequences"]) == ["0002", "0006"]
    assert 0 < report["metrics"]["car"]["MOTSP"] <= 100


def test_masks_that_overlap_are_an_error_with_the_place(
    kitti_mots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [Object(5, track, 0, strip(0, 9)) for track in (1, 2)]
    write_text(kitti_mots / "results" / "0006.txt", twice)
    assert _score_masks(kitti_mots) == 1
    error = capsys.readouterr().err
    assert "0006.txt" in error
    assert "overlap" in error


@pytest.mark.parametrize(
    ("kind", "sequence"),
    [("car", "0006"), ("car", "0020"), ("car", "0027"), ("person", "0020"), ("person", "0027")],
)
def test_real_masks_scored_against_themselves_are_perfect(
    kind: str, sequence: str, shared: Path, tmp_path: Path
) -> None:
    """Results of the PointTrack authors, with ids that truth could have."""
    results = shared / "data/kitti_mots_segs" / kind
    rows = [line.split() for line in (results / f"{sequence}.txt").read_text().splitlines()]
    lines = [
        f"{frame} {int(class_id) * 1000 + int(track)} {class_id} {' '.join(mask)}\n"
        for frame, track, class_id, *mask in rows
    ]
    for folder, content in (
        ("truth", "".join(lines)),
        ("results", (results / f"{sequence}.txt").read_text()),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{sequence}.txt").write_text(content)
    assert _score_masks(tmp_path, "--json", str(tmp_path / "scores.json")) == 0
    metrics = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    numbers = metrics["car" if kind == "car" else "pedestrian"]
    assert [numbers[name] for name in ("sMOTSA", "MOTSA", "MOTSP")] == [100.0] * 3
    assert (numbers["TP"], numbers["FP"], numbers["FN"], numbers["IDS"]) == (len(rows), 0, 0, 0)


@pytest.mark.slow
def test_neither_torch_nor_ray_is_loaded(truth_path: Path, repository: Path) -> None:
    program = (
        "import sys\n"
        "from jobs import command, evaluate\n"
        "code = command.run(evaluate.main)\n"
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)), code)\n"
    )
    results_path = truth_path.with_name("results.json")
    arguments = ["--benchmark", "bdd100k", "--truth", truth_path, "--results", results_path]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=repository,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["module", "path"])
def test_runs_as_module_and_as_file_from_anywhere(
    form: str, shared: Path, repository: Path, tmp_path: Path
) -> None:
    """Run as a file from a folder that holds another `datasets`, it still imports ours."""
    (tmp_path / "datasets").mkdir()
    start = ["-m", "jobs.evaluate"] if form == "module" else [str(repository / "jobs/evaluate.py")]
    demo = shared / "data/mot15_demo"
    arguments = ["--benchmark", "mot15", "--truth", demo / "gt", "--results", demo / "results/data"]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        cwd=repository if form == "module" else tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[0] == "pedestrian"


def test_the_file_is_executable_with_a_shebang(repository: Path) -> None:
    path = repository / "jobs/evaluate.py"
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env python\n")


def _first_label(frames: list[dict[str, Any]]) -> dict[str, Any]:
    label: dict[str, Any] = frames[3]["labels"][0]
    return label


def _nan_box(frames: list[dict[str, Any]]) -> None:
    _first_label(frames)["box2d"]["x1"] = float("nan")


def _duplicate(frames: list[dict[str, Any]]) -> None:
    frames[3]["labels"].append(_first_label(frames))


def _unknown_class(frames: list[dict[str, Any]]) -> None:
    _first_label(frames)["category"] = "tank"


def _wrong_frame(frames: list[dict[str, Any]]) -> None:
    frames[-1]["frameIndex"] = 999


def _missing_frame(frames: list[dict[str, Any]]) -> None:
    del frames[-1]


def _further_sequence(frames: list[dict[str, Any]]) -> None:
    frames.append({**frames[0], "videoName": "other"})


def _textual_id(frames: list[dict[str, Any]]) -> None:
    _first_label(frames)["id"] = "a-7"


@pytest.mark.parametrize(
    ("edit", "places"),
    [
        (_nan_box, ["broken.json", "b1c66a42-6f7d68ca", "frame 3", "nan"]),
        (_duplicate, ["broken.json", "b1c66a42-6f7d68ca", "frame 3", "twice"]),
        (_unknown_class, ["broken.json", "b1c66a42-6f7d68ca", "frame 3", "'tank'"]),
        (_wrong_frame, ["broken.json", "b1c66a42-6f7d68ca", "999"]),
        (_missing_frame, ["b1c66a42-6f7d68ca", "201 frames", "202"]),
        (_further_sequence, ["'other'"]),
        (_textual_id, ["broken.json", "b1c66a42-6f7d68ca", "frame 3", "'a-7'"]),
    ],
)
def test_a_broken_result_is_one_line_and_code_1(
    edit: Edit,
    places: list[str],
    truth_path: Path,
    results: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(results)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(results))
    report = tmp_path / "scores.json"
    assert _score(truth_path, path, "--json", str(report)) == 1
    captured = capsys.readouterr()
    [line] = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    for place in places:
        assert place in line
    assert captured.out == ""
    assert not report.exists()


@pytest.mark.parametrize("content", ["", "[{", "3"])
def test_an_empty_or_cut_file_is_no_result(
    content: str, truth_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.json"
    path.write_text(content)
    assert _score(truth_path, path) == 1
    assert "cut.json" in capsys.readouterr().err


def test_an_empty_list_is_a_result_without_tracks(
    truth_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "empty.json"
    path.write_text("[]")
    assert _score(truth_path, path) == 0
    overall = capsys.readouterr().out.splitlines()[-2].split()
    assert (overall[7:9], overall[12]) == (["0", "3109"], "142")  # FP, FN, ML: all is missed
    assert overall[5] == "-"  # MOTP of no match


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--benchmark", "kitti", "--truth", "a", "--results", "b"],
        ["--benchmark", "bdd100k", "--truth", "a", "--results", "b", "--num-workers", "0"],
    ],
)
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.run(evaluate.main, arguments)
    assert caught.value.code == 2


def test_a_file_that_does_not_exist_is_named(
    truth_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _score(truth_path, truth_path.with_name("absent.json")) == 1
    assert "absent.json" in capsys.readouterr().err
