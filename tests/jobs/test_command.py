"""Exit codes and one-line errors that every command promises."""

import errno
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs import command


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUASAR_DEBUG", raising=False)


def _raising(error: BaseException):
    def main(_: Sequence[str]) -> int:
        raise error

    return main


def test_a_main_without_return_value_is_done() -> None:
    assert command.run(lambda _: None, []) == 0


def test_the_exit_code_of_main_is_kept() -> None:
    assert command.run(lambda _: 3, []) == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.json, frame 3:\n box is NaN"), "error: a.json, frame 3: box is NaN"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "gt.json"),
            "error: gt.json: No such file",
        ),
        (OSError(errno.ENOSPC, "No space left", "/full"), "error: /full: No space left"),
    ],
)
def test_wrong_input_is_one_line(
    error: BaseException, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(_raising(error), []) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [line]
    assert captured.out == ""


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(_raising(ValueError("broken")), ["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interruption_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(_raising(KeyboardInterrupt()), []) == 130
    assert "interrupted" in capsys.readouterr().err


def test_our_own_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        command.run(_raising(ZeroDivisionError()), [])


def test_a_foreign_package_named_datasets_is_refused(tmp_path: Path, repository: Path) -> None:
    """Installed beside Hugging Face's library, `import datasets` gave the wrong one."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from jobs import command; sys.exit(command.run(lambda _: 0, []))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path), str(repository)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert "the package `datasets` that Python finds is" in done.stderr
