"""The benchmark job: a suite run once, run again, and with a part of it damaged."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs import benchmark, command
from pipeline.overrides import apply_overrides, parse_assignments
from pipeline.recipes import RECIPES, find_recipe

pytestmark = pytest.mark.slow

TRACKERS = """
[[trackers]]
name = "own"

[[trackers]]
name = "overlap only"
association = {kind = "overlap", init_score_thr = 0.1, obj_score_thr = 0.05}

[[trackers]]
name = "SORT"
association = {kind = "sort", init_score_thr = 0.05, min_frames = 1}
"""


@dataclass(frozen=True)
class Place:
    """A root that holds what the experiment left, but not its MLflow."""

    root: Path
    data_root: Path
    weights: Path
    frames: Path


@pytest.fixture(scope="module")
def tiny_recipe(tiny_overrides: tuple[str, ...]) -> Iterator[str]:
    """The experiment's config under a name of its own, as a suite needs it."""
    base = find_recipe("qdtrack_frcnn_r18_synthetic")
    config = replace(apply_overrides(base, parse_assignments(tiny_overrides)), recipe="tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", lambda: config)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield "tiny"


@pytest.fixture(scope="module")
def place(experiment: Any, tiny_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("benchmark") / "root"
    ignore = shutil.ignore_patterns("mlflow*", "mlartifacts", "checkpoints")
    shutil.copytree(experiment.output_root, root, ignore=ignore)
    return Place(
        root=root,
        data_root=experiment.data_root,
        weights=root / experiment.weights.relative_to(experiment.output_root),
        frames=root / experiment.folders["frames"].relative_to(experiment.output_root),
    )


def run(suite: Path, place: Place) -> int:
    arguments = ["--suite", str(suite), "--output-root", str(place.root), "--num-workers", "1"]
    return command.run(benchmark.main, arguments)


def steps(output: str) -> dict[str, bool]:
    """Label of each step to whether its result was found."""
    lines = [line for line in output.splitlines() if line[28:38].strip().endswith((" s", "reused"))]
    return {line[:28].strip(): "reused" in line[28:38] for line in lines}


def process_run(place: Place, name: str) -> Any:
    """The one run of that name in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place.root}/mlflow.db")
    experiment = client.get_experiment_by_name("quasar").experiment_id
    (run,) = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    return run


@pytest.fixture(scope="module")
def suite(place: Place) -> Path:
    path = place.root.parent / "tiny.toml"
    data = f'[[data]]\ndata_root = "{place.data_root}"\nnotes = "made up"\n'
    path.write_text(f'{data}[[weights]]\nrecipe = "tiny"\n{TRACKERS}')
    return path


def test_what_is_missing_is_done_and_then_nothing_is(
    place: Place, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.runlog import RunLog

    assert run(suite, place) == 0
    out = capsys.readouterr().out
    assert steps(out) == {
        "ingest val": True,
        "ingest train": True,
        "ingest det_train": True,
        "train": True,
        "infer": True,
        "own": True,
        "overlap only": True,
        "SORT": False,
    }, "the experiment's own results are found"
    assert "3 of 3 rows are new" in out
    run_log = RunLog(None, str(place.root))
    rows = {row.name: row for row in run_log.results("bdd100k", "val")}
    assert {name: row.kind for name, row in rows.items()} == {
        "tiny": "model",
        "tiny, overlap only": "baseline",
        "tiny, SORT": "baseline",
    }
    for name, row in rows.items():
        assert name in out
        assert row.notes == "made up"
        assert row.recipe == "tiny"
        assert row.intervals.keys() >= {"mMOTA", "mIDF1"}
        low, high = row.intervals["MOTA"]
        assert low <= row.metrics["MOTA"] <= high
        assert run_log.read_file(row, "fields.parquet")
    assert rows["tiny, SORT"].tracker.startswith("sort (init_score_thr=0.05")
    assert process_run(place, "benchmark tiny").info.status == "FINISHED"

    before = {path: path.stat().st_mtime_ns for path in place.root.rglob("*") if path.is_file()}
    assert run(suite, place) == 0
    out = capsys.readouterr().out
    assert set(steps(out).values()) == {True}
    assert len(steps(out)) == 8
    assert "nothing to do: all 3 rows were on the leaderboard already" in out
    assert "tiny, SORT [baseline]" in out
    after = {path: path.stat().st_mtime_ns for path in place.root.rglob("*") if path.is_file()}
    changed = {
        path.name for path in after.keys() | before.keys() if before.get(path) != after.get(path)
    }
    assert changed <= {"mlflow.db", ".mlflow.db.lock"}, "which connecting touches"


def test_what_fails_is_named_and_the_rest_goes_on(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "other" / place.frames.relative_to(place.root)
    shutil.copytree(place.frames, damaged)
    [file, *_] = sorted(damaged.glob("parts/*/frames-*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    path = tmp_path / "damaged.toml"
    path.write_text(
        f'[[data]]\nframes = "{damaged}"\n[[data]]\nframes = "{place.frames}"\n'
        f'[[weights]]\nrecipe = "tiny"\nfile = "{place.weights}"\nname = "from a file"\n' + TRACKERS
    )
    assert run(path, place) == 1
    out = capsys.readouterr().out
    failures = [line for line in out.splitlines() if line.startswith("FAILED: ")]
    assert failures[0] == failures[-1], "said when it happens and once more at the end"
    assert failures[0].startswith("FAILED: from a file on bdd100k/val: ")
    assert file.parent.name in failures[0]
    assert "3 of 3 rows are new" in out
    assert "from a file, SORT [baseline]" in out
    from pipeline.runlog import RunLog

    rows = RunLog(None, str(place.root)).results("bdd100k", "val")
    assert {row.recipe for row in rows if row.name == "from a file"} == {"tiny, not trained here"}
    ended = process_run(place, "benchmark damaged")
    assert ended.info.status == "FAILED"
    assert {row.process_run_id for row in rows if "from a file" in row.name} == {ended.info.run_id}
    recorded = Path(ended.info.artifact_uri.removeprefix("file://"), "failures.json").read_text()
    (failure,) = json.loads(recorded)
    assert failures[0] == f"FAILED: {failure['what']}: {failure['reason']}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("frames = ", "data_root = '/nowhere' #", "there is no folder /nowhere"),
        ("/frames/", "/weights/", "no finished artefact here"),
        ("model.safetensors", "absent.safetensors", "absent.safetensors"),
        ('recipe = "tiny"', 'recipe = "tyni"', "no recipe is called 'tyni'"),
        ("file = ", "# ", "no file, and no data set with raw files of bdd100k to train on"),
        ("[[trackers]]", "[[protocols]]\nprotocol = 'mot17'\n[[trackers]]", "no rules for data of"),
        (
            "[[trackers]]",
            "[[protocols]]\nprotocol='bdd100k'\n[[protocols]]\nprotocol='mot17'\n[[trackers]]",
            "mot17 fits none of the data",
        ),
        (
            "[[trackers]]",
            "[[trackers]]\nname = 'a'\nassociation.kind = 'sort'\n"
            "[[trackers]]\nname = 'b'\nassociation.kind = 'sort'\n[[trackers]]",
            "tracker 'a' with weights 'tiny' and tracker 'b' with weights 'tiny' are one row",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    message: str,
) -> None:
    text = (
        f'[[data]]\nframes = "{place.frames}"\n'
        f'[[weights]]\nrecipe = "tiny"\nfile = "{place.weights}"\n'
        '[[trackers]]\nname = "own"\n'
    )
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    elsewhere = replace(place, root=tmp_path / "root")
    assert run(path, elsewhere) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not elsewhere.root.exists()
    assert len(captured.out.splitlines()) == 1, "only the suite's name was printed"


def test_options_that_do_not_belong_together_are_refused(
    place: Place, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(benchmark.main, ["--suite", str(suite), "--data-root", "/raw"]) == 1
    assert "leave --data-root and --weights out" in capsys.readouterr().err
    assert command.run(benchmark.main, ["--suite", "bdd100k"]) == 1
    assert "'bdd100k' needs --data-root" in capsys.readouterr().err
    assert command.run(benchmark.main, ["--suite", "bdd10k"]) == 1
    assert "did you mean bdd100k" in capsys.readouterr().err
