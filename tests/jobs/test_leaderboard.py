"""The leaderboard command: what it prints and writes, and what it says where nothing is."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks
from jobs import command, leaderboard
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.leaderboard import ResultRow
from pipeline.scores import FIELDS_FILE, pack_fields

MakeRow = Callable[..., ResultRow]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("QUASAR_DEBUG", raising=False)


def empty_fields(name: str) -> Any:
    """What the metrics combine of a sequence without anything in it."""
    truth = SequenceTruth(name=name, frame_names=("1.jpg",), annotations=Annotations.empty())
    result = SequenceResult(name=name, tracks=Tracks.empty())
    return evaluate_sequence(build_protocol(EvaluationConfig()), truth, result).fields


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow, full_row: ResultRow) -> Path:
    """An output root whose database holds two leaderboards."""
    from pipeline.runlog import RunLog

    root = tmp_path_factory.mktemp("root")
    log = RunLog(f"sqlite:///{root}/mlflow.db", str(root))
    fields = {FIELDS_FILE: pack_fields({name: empty_fields(name) for name in ("a", "b", "c")})}
    log.log_result(full_row, files=fields)
    log.log_result(make_row("overlap only", kind="baseline", metrics={"mMOTA": 10.0}), files=fields)
    log.log_result(make_row("true boxes", kind="bound", metrics={"mMOTA": 80.0}))
    log.log_result(make_row("elsewhere", benchmark="synthetic", metrics={"mMOTA": 99.0}))
    return root


@pytest.mark.slow
def test_prints_and_writes_every_leaderboard(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        name: tmp_path / "out" / f"board.{name}" for name in ("html", "csv", "json", "markdown")
    }
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert command.run(leaderboard.main, ["--output-root", str(root), *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("bdd100k / val\n")
    assert "synthetic / val\n" in captured.out
    table = captured.out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["–", "1", "2"]
    assert "mlflow server --backend-store-uri" in captured.err
    assert len(list(csv.reader(files["csv"].open()))) == 5
    assert len(json.loads(files["json"].read_text())["leaderboards"]) == 2
    for name in ("html", "markdown"):
        assert "elsewhere" in files[name].read_text()


@pytest.mark.slow
def test_two_rows_against_each_other(
    root: Path, tmp_path: Path, full_row: ResultRow, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "board.html"
    place = ["--output-root", str(root), "--html", str(page)]
    rows = ["--compare", full_row.fingerprint[:6], "overlap only"]
    assert command.run(leaderboard.main, [*place, *rows]) == 0
    out = capsys.readouterr().out
    assert f"first   {full_row.fingerprint}  QDTrack, all of it" in out
    assert "1000 resamples of 3 sequences" in out
    (line,) = [line for line in out.splitlines() if line.startswith("mMOTA")]
    assert line.split()[3:] == ["0.00", "[0.00,", "0.00]", "50.0", "%"], "the same fields"
    assert page.exists(), "a file that was asked for is written all the same"
    assert command.run(leaderboard.main, [*place, "--compare", "overlap only", "true boxes"]) == 1
    assert "error: row 'true boxes'" in capsys.readouterr().err
    assert command.run(leaderboard.main, [*place, "--compare", "overlap only", "elsewhere"]) == 1
    assert "were not scored alike" in capsys.readouterr().err


@pytest.mark.slow
def test_one_benchmark_and_split_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--output-root", str(root)]
    assert command.run(leaderboard.main, [*place, "--benchmark", "synthetic"]) == 0
    out = capsys.readouterr().out
    assert "elsewhere" in out
    assert "overlap only" not in out
    assert command.run(leaderboard.main, [*place, "--split", "test"]) == 1
    error = capsys.readouterr().err
    assert "leaderboards there: bdd100k / val, synthetic / val" in error


def test_nothing_logged_yet_is_an_error_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    arguments = ["--output-root", str(tmp_path), "--html", str(page)]
    assert command.run(leaderboard.main, arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/mlflow.db: nothing was logged here yet")
    assert "jobs.train_bdd" in line
    assert not page.exists()


def test_an_impossible_place_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(leaderboard.main, ["--tracking-uri", "file:///mlruns"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tracking URI 'file:///mlruns'")


@pytest.mark.slow
def test_runs_by_its_path_from_anywhere(root: Path, repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [repository / "jobs/leaderboard.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "QUASAR_ROOT": str(root),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "QDTrack, all of it" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert all("MLflow" in line for line in done.stderr.splitlines()), "no progress bars, no noise"


def test_help_needs_none_of_the_heavy_libraries(repository: Path) -> None:
    program = (
        "import sys\nfrom jobs import leaderboard\n"
        "try: leaderboard.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'mlflow', 'torch', 'ray', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "example: python -m jobs.leaderboard" in done.stdout
