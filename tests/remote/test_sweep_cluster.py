"""The same sweep on two nodes that share an S3 root, one of them lost in the middle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import command, sweep
from pipeline.scores import REPORT_FILE, REPORT_PART
from pipeline.store import Artefact
from tests.jobs.test_sweep import arguments, read_trials
from tests.sweep_scene import write_store

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_a_sweep_on_two_nodes_of_which_one_is_lost_ends_the_same(
    ray_session: None, s3_root: str, tmp_path: Path, repository: Path
) -> None:
    """Promise: where the artefacts lie, how many nodes there are and which of them die changes
    neither the study nor a byte of the scores."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    local = write_store(str(here / "root"), 16)
    remote = write_store(s3_root, 16)
    assert command.run(sweep.main, arguments(local, here, "--num-workers", 1)) == 0

    script = Path(__file__).with_name("sweep_on_two_nodes.py")
    study = there / "study.db"
    done = subprocess.run(
        [sys.executable, script, study, "3", *arguments(remote, there, "--num-workers", "2")],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost a node after" in done.stdout
    assert "1 node alive at the end" in done.stdout
    assert read_trials(there) == read_trials(here)
    reports = _reports(local.frames.root, s3_root)
    assert len(reports) >= 2  # the recipe's own setting and the best
    for here_bytes, there_bytes in reports:
        assert here_bytes == there_bytes


def _reports(*roots: str) -> list[tuple[bytes, ...]]:
    """Bytes of every report of scores that the first root has, under all roots."""
    names = [path.name for path in Path(roots[0]).glob("scores/small/val/*")]
    reports = []
    for name in names:
        contents = []
        for root in roots:
            scores = Artefact(
                root=root, stage="scores", dataset="small", split="val", fingerprint=name
            )
            with scores.part(REPORT_PART).open_input(REPORT_FILE) as stream:
                contents.append(bytes(stream.read()))
        reports.append(tuple(contents))
    return reports
