"""What every published number states about the code and the machine behind it."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import provenance
from pipeline.provenance import (
    describe_hardware,
    describe_provenance,
    digest_source,
    find_revision,
    library_versions,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree of our shape."""
    root = tmp_path / "checkout"
    for folder in ("datasets", "models/qdtrack", "pipeline", "jobs"):
        (root / folder).mkdir(parents=True)
        (root / folder / "code.py").write_text(f"# {folder}\n")
    return root


def _git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@localhost")
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_digest_names_the_content_and_nothing_else(tree: Path) -> None:
    before = digest_source(tree)
    assert re.fullmatch("[0-9a-f]{16}", before)
    (tree / "README.md").write_text("new")
    (tree / "jobs/__pycache__").mkdir()
    (tree / "jobs/__pycache__/code.cpython-311.pyc").write_bytes(b"\0")
    (tree / "jobs/.code.py.swp").write_bytes(b"\0")
    (tree / "models/qdtrack/code.py").touch()
    assert digest_source(tree) == before


@pytest.mark.parametrize("change", ["edit", "add", "rename", "move a line to the next file"])
def test_digest_sees_every_change(tree: Path, change: str) -> None:
    (tree / "jobs/a.py").write_text("x\ny\n")
    (tree / "jobs/b.py").write_text("z\n")
    before = digest_source(tree)
    if change == "edit":
        (tree / "models/qdtrack/code.py").write_text("# other\n")
    elif change == "add":
        (tree / "models/empty.py").touch()
    elif change == "rename":
        (tree / "jobs/a.py").rename(tree / "jobs/c.py")
    else:
        (tree / "jobs/a.py").write_text("x\n")
        (tree / "jobs/b.py").write_text("y\nz\n")
    assert digest_source(tree) != before


def test_revision_is_the_commit_and_says_when_files_changed(tree: Path) -> None:
    _git(tree, "init", "-q")
    assert find_revision(tree) == "unknown", "a repository without a commit"
    _git(tree, "add", ".")
    _git(tree, "commit", "-qm", "first")
    commit = _git(tree, "rev-parse", "HEAD")
    assert find_revision(tree) == commit
    (tree / "notes.txt").write_text("untracked files do not run")
    assert find_revision(tree) == commit
    (tree / "jobs/code.py").write_text("# other\n")
    assert find_revision(tree) == f"{commit}+changes"


def test_a_copy_inside_another_repository_has_no_revision(tree: Path, tmp_path: Path) -> None:
    """Ray unpacks the working directory under its own folders; the commit there is not ours."""
    assert find_revision(tree) == "unknown"
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "somebody else's")
    assert find_revision(tree) == "unknown"


def test_without_git_the_revision_is_unknown(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_revision(tree) == "unknown"


def test_hardware_names_processor_cores_and_memory() -> None:
    assert re.match(r"\d+ cores of \S.*, \d+ GiB", describe_hardware())


def test_graphics_cards_are_counted_by_model(tmp_path: Path) -> None:
    for index, model in enumerate(["NVIDIA H200", "NVIDIA H200", "NVIDIA L4"]):
        (tmp_path / f"0000:0{index}").mkdir()
        text = f"Model: \t\t {model}\nIRQ:   \t\t 16\nGPU UUID: \t GPU-0\n"
        (tmp_path / f"0000:0{index}" / "information").write_text(text)
    assert provenance._gpu_names(tmp_path) == ["NVIDIA H200", "NVIDIA H200", "NVIDIA L4"]
    assert provenance._gpu_names(tmp_path / "none") == []


def test_processor_without_a_model_name_is_still_called_something(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nBogoMIPS : 50.00\n")
    assert provenance._processor_name(tmp_path / "cpuinfo")


def test_versions_cover_the_referee() -> None:
    versions = library_versions()
    assert versions["trackeval"].startswith("1.")
    assert versions["python"].startswith("3.")


def test_everything_together_is_dated_in_utc() -> None:
    found = describe_provenance()
    age = datetime.now(UTC) - datetime.fromisoformat(found.date)
    assert timedelta(seconds=-1) <= age < timedelta(minutes=1)
    assert found.source_digest == digest_source()
