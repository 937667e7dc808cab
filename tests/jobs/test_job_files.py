"""Every file of jobs/ that is a command can be run by its path and explains itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"
COMMANDS = sorted(
    path.stem for path in JOBS.glob("*.py") if '\nif __name__ == "__main__":\n' in path.read_text()
)


def test_the_commands_are_these() -> None:
    assert set(COMMANDS) >= {
        *("diagnose", "doctor", "evaluate", "export", "import_weights", "infer", "ingest"),
        *("leaderboard", "render", "track", "train_bdd"),
    }
    others = {path.stem for path in JOBS.glob("*.py")} - set(COMMANDS)
    assert others == {"__init__", "command", "options"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_executable_with_a_shebang(name: str) -> None:
    path = JOBS / f"{name}.py"
    assert path.read_text().splitlines()[0] == "#!/usr/bin/env python"
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_run_by_its_path_from_elsewhere_explains_itself(
    name: str, tmp_path: Path
) -> None:
    """Without an argument there is nothing to import: help answers at once."""
    done = subprocess.run(
        [sys.executable, str(JOBS / f"{name}.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert text.startswith(f"usage: {name}.py ")
    description, example = text.split(" example: ")
    assert example.startswith(("python -m jobs.", "jobs/"))
    assert name in example
    # The first sentence of the file is the first of the help.
    first = (JOBS / f"{name}.py").read_text().split('"""')[1].split(".")[0].split(":")[0]
    assert " ".join(first.split()) in description
