"""What the doctor finds in set-ups that are in order, and in such that are not."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.registry import BENCHMARKS
from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k
from pipeline.doctor import Finding, examine_data, examine_setup


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


def message(findings: list[Finding], subject: str) -> str:
    (found,) = [finding.message for finding in findings if finding.subject == subject]
    return found


@pytest.fixture(scope="module")
def setup_findings(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> tuple[Path, list[Finding]]:
    """This environment, with a root that does not exist yet."""
    root = tmp_path_factory.mktemp("doctor") / "new" / "root"
    return root, list(examine_setup(str(root), repository / "constraints.txt"))


def test_the_environment_of_the_tests_is_in_order(
    setup_findings: tuple[Path, list[Finding]],
) -> None:
    root, findings = setup_findings
    found = levels(findings)
    assert "error" not in found.values()
    for subject in ("python", "ray", "torch", "trackeval", "av", "torch and torchvision"):
        assert found[subject] == "ok", message(findings, subject)
    assert message(findings, "output root").startswith(str(root))
    assert sys.executable in message(findings, "python")
    assert os.listdir(root) == []


def test_another_version_than_the_tested_one_is_a_warning(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    numpy = importlib.metadata.version("numpy")
    constraints.write_text(f"# of last year\nray==1.0.0\nnumpy=={numpy}\nopencv-python==4.0.0.1\n")
    findings = list(examine_setup(str(tmp_path), constraints))
    found = levels(findings)
    assert (found["ray"], found["opencv-python"], found["numpy"]) == ("warning", "warning", "ok")
    ray = importlib.metadata.version("ray")
    assert message(findings, "ray") == f"{ray}, tested with 1.0.0; `make setup` installs that"
    assert found["scipy"] == "ok"  # not pinned, so any version will do


def test_constraints_need_not_be_there(tmp_path: Path) -> None:
    findings = list(examine_setup(str(tmp_path), tmp_path / "absent.txt"))
    assert levels(findings)["ray"] == "ok"


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    root = f"{tmp_path}/file/root"
    findings = list(examine_setup(root, repository / "constraints.txt"))
    assert levels(findings)["output root"] == "error"
    assert message(findings, "output root").startswith(f"{root} cannot be written: ")


def test_a_root_may_be_a_file_uri(tmp_path: Path) -> None:
    root = f"file://{tmp_path}/root"
    findings = list(examine_setup(root, tmp_path / "absent.txt"))
    assert levels(findings)["output root"] == "ok"
    assert os.listdir(tmp_path / "root") == []


@pytest.mark.parametrize(
    ("mode", "token", "level", "text"),
    [
        (None, "file", "warning", "export RAY_AUTH_MODE=token"),
        ("token", None, "warning", "ray get-auth-token --generate"),
        ("token", "file", "ok", "RAY_AUTH_MODE=token"),
        ("token", "variable", "ok", "RAY_AUTH_MODE=token"),
        ("token", "path", "ok", "RAY_AUTH_MODE=token"),
        ("disabled", None, "ok", "RAY_AUTH_MODE=disabled"),
    ],
)
def test_a_cluster_needs_a_token_and_the_mode_that_asks_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    token: str | None,
    level: str,
    text: str,
) -> None:
    """With the mode unset, `ray start` and `ray job submit` disagree on whether there is one; with
    the mode set and no token, `ray start` fails."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"file": tmp_path / ".ray" / "auth_token", "path": tmp_path / "elsewhere"}
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if token in places:
        places[token].parent.mkdir(exist_ok=True)
        places[token].write_text("0" * 64)
    if token == "path":
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(places["path"]))
    if token == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    findings = list(examine_setup(str(tmp_path / "root"), tmp_path / "absent.txt"))
    assert levels(findings)["ray token"] == level
    assert text in message(findings, "ray token")


@pytest.mark.slow
def test_a_torch_that_does_not_load_is_a_finding_like_any_other(
    tmp_path: Path, repository: Path
) -> None:
    """The doctor died of the very thing it was asked about: its look for a GPU needs torch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('undefined symbol: cu')")
    root = tmp_path / "root"
    done = subprocess.run(
        [sys.executable, str(repository / "jobs/doctor.py"), "--json", "--output-root", str(root)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    findings = [Finding(**finding) for finding in json.loads(done.stdout)]
    assert levels(findings)["torch and torchvision"] == "error"
    assert "undefined symbol: cu" in message(findings, "torch and torchvision")
    assert levels(findings)["output root"] == "ok"


class TestData:
    @pytest.fixture(scope="class")
    def data_root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("raw") / "bdd100k"
        config = SyntheticConfig(num_train=2, num_val=1, num_frames=2, num_stills=2)
        write_synthetic_bdd100k(root, config)
        return root

    def test_a_complete_set_lacks_nothing_that_is_needed(self, data_root: Path) -> None:
        found = levels(list(examine_data(BENCHMARKS["bdd100k"], data_root)))
        assert "error" not in found.values()
        for path in (
            *("images/track/train", "images/track/val"),
            *("labels/box_track_20/train", "labels/box_track_20/val"),
            *("images/100k/train", "labels/det_20/det_train.json"),
        ):
            assert found[f"data {path}"] == "ok"
        assert found["data images/track/test"] == "warning"

    def test_sequences_are_counted_against_the_published_ones(self, data_root: Path) -> None:
        findings = list(examine_data(BENCHMARKS["bdd100k"], data_root))
        found = {f.subject: (f.level, f.message) for f in findings}
        expected = "2 sequences of 1400 have frames and labels"
        assert found["data train"] == ("warning", expected)
        expected = "1 sequences of 200 have frames and labels"
        assert found["data val"] == ("warning", expected)

    def test_the_published_number_is_in_order(self, data_root: Path) -> None:
        small = replace(BENCHMARKS["bdd100k"], published_sequences={"train": 2, "val": 2})
        found = levels(list(examine_data(small, data_root)))
        assert (found["data train"], found["data val"]) == ("ok", "warning")

    def test_one_label_file_of_many_is_not_enough(self, data_root: Path, tmp_path: Path) -> None:
        small = replace(BENCHMARKS["bdd100k"], published_sequences={"train": 2})
        root = tmp_path / "bdd100k"
        shutil.copytree(data_root, root)
        labels = sorted((root / "labels/box_track_20/train").iterdir())
        labels[0].unlink()
        findings = list(examine_data(small, root))
        assert levels(findings)["data labels/box_track_20/train"] == "ok"
        assert levels(findings)["data train"] == "warning"
        text = message(findings, "data train")
        assert text.startswith("1 sequences of 2 have frames and labels; 1 problems, the first: ")
        assert labels[0].stem in text
        labels[1].rename(labels[1].with_stem("another"))
        findings = list(examine_data(small, root))
        assert levels(findings)["data train"] == "error"

    @pytest.mark.parametrize(
        ("removed", "level"),
        [
            ("labels/box_track_20/val", "error"),
            ("labels/det_20/det_train.json", "warning"),
        ],
    )
    def test_what_is_missing_is_named(
        self, data_root: Path, tmp_path: Path, removed: str, level: str
    ) -> None:
        (data_root / removed).rename(tmp_path / "away")
        try:
            findings = list(examine_data(BENCHMARKS["bdd100k"], data_root))
        finally:
            (tmp_path / "away").rename(data_root / removed)
        assert levels(findings)[f"data {removed}"] == level
        assert message(findings, f"data {removed}").startswith("missing: ")

    def test_an_empty_folder_of_labels_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "labels/box_track_20/val").mkdir(parents=True)
        findings = list(examine_data(BENCHMARKS["bdd100k"], tmp_path))
        assert levels(findings)["data labels/box_track_20/val"] == "error"

    def test_sequences_of_motchallenge_are_looked_into(self, tmp_path: Path) -> None:
        folder = tmp_path / "train" / "MOT17-02-FRCNN"
        (folder / "gt").mkdir(parents=True)
        (folder / "gt" / "gt.txt").write_text("1,1,0,0,5,5,1,1,1\n")
        (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=1\n")
        found = levels(list(examine_data(BENCHMARKS["mot17"], tmp_path)))
        assert found["data train/MOT17-02-FRCNN/gt/gt.txt"] == "ok"
        assert found["data train/MOT17-02-FRCNN/img1"] == "error"
        assert found["data test"] == "warning"

    def test_lists_of_sequences_are_needed_where_nothing_else_tells(self, tmp_path: Path) -> None:
        for place in ("images/road0_a/000000.png", "instances_txt/road0_a.txt"):
            (tmp_path / place).parent.mkdir(parents=True)
            (tmp_path / place).touch()
        found = levels(list(examine_data(BENCHMARKS["apollo_mots"], tmp_path)))
        assert (found["data images"], found["data instances"]) == ("ok", "ok")
        assert (found["data train.seqmap"], found["data train"]) == ("error", "error")
        (tmp_path / "train.seqmap").write_text("road0_a empty 000000 000000\n")
        findings = list(examine_data(BENCHMARKS["apollo_mots"], tmp_path))
        assert levels(findings)["data train.seqmap"] == "ok"
        expected = "1 sequences of 55 have frames and labels"
        assert message(findings, "data train") == expected

    def test_a_root_that_is_no_folder_is_the_only_finding(self, tmp_path: Path) -> None:
        (finding,) = examine_data(BENCHMARKS["bdd100k"], tmp_path / "absent")
        assert finding.level == "error"
        assert finding.message == f"{tmp_path / 'absent'} is not a folder"
