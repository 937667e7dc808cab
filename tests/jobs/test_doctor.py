"""The doctor's command: exit codes, and findings as lines and as JSON."""

import json
from pathlib import Path

import pytest

from jobs import command, doctor


def test_a_set_up_in_order_is_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(doctor.main, ["--output-root", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    lines = [line.split(maxsplit=1) for line in printed.out.splitlines()]
    assert {level for level, _ in lines} <= {"ok", "warning"}
    assert any(rest.startswith("output root") and str(tmp_path) in rest for _, rest in lines)
    num_warnings = sum(level == "warning" for level, _ in lines)
    assert f"0 errors, {num_warnings} warnings" in printed.err.splitlines()


def test_missing_data_is_code_1_and_json_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--benchmark", "bdd100k", "--data-root", str(tmp_path)]
    root = ["--output-root", str(tmp_path / "out")]
    assert command.run(doctor.main, ["--json", *data, *root]) == 1
    printed = capsys.readouterr()
    findings = json.loads(printed.out)
    assert all(finding.keys() == {"level", "subject", "message"} for finding in findings)
    missing = [f["subject"] for f in findings if f["level"] == "error"]
    assert missing == [
        "data images/track/train",
        "data labels/box_track_20/train",
        "data images/track/val",
        "data labels/box_track_20/val",
    ]
    assert "4 errors" in printed.err


def test_a_root_that_cannot_be_written_is_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert command.run(doctor.main, ["--output-root", str(tmp_path / "file" / "root")]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error")]
    assert "output root" in line


@pytest.mark.parametrize("half", [["--benchmark", "mot17"], ["--data-root", "."]])
def test_benchmark_and_data_root_go_together(
    half: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.run(doctor.main, half)
    assert caught.value.code == 2
    assert "--benchmark and --data-root go together" in capsys.readouterr().err


def test_an_unknown_benchmark_is_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        command.run(doctor.main, ["--benchmark", "kitti", "--data-root", "."])
    assert caught.value.code == 2
