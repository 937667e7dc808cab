"""The main job end to end, and the jobs that take up what it left."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate, export, infer, ingest, leaderboard, train_bdd

pytestmark = pytest.mark.slow


def test_the_job_prints_three_rows_and_where_everything_lies(experiment: Any) -> None:
    printed = (experiment.output_root / "printed.txt").read_text()
    for text in (
        "overlap only",
        "true boxes",
        "mMOTA",
        "IDF1",
        "overlay video",
        "jobs.leaderboard",
    ):
        assert text in printed
    for folder in experiment.folders.values():
        assert (folder / "manifest.json").is_file()
    videos = list((experiment.output_root / "overlays").rglob("overlay.mp4"))
    assert len(videos) == 1
    assert videos[0].stat().st_size > 1000


def test_a_second_run_reuses_every_stage(
    experiment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_bdd.main(experiment.arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ("ingest ", "train ", "infer ", "embed ", "track and ")
    stages = [line for line in lines if line.startswith(names)]
    assert len(stages) == 9
    assert all("reused" in line for line in stages)


def test_the_run_in_mlflow_holds_config_losses_and_rows(experiment: Any) -> None:
    from pipeline.runlog import RunLog

    run_log = RunLog(None, str(experiment.output_root))
    rows = run_log.results("bdd100k", "val")
    assert sorted(row.kind for row in rows) == ["baseline", "bound", "model"]
    model = next(row for row in rows if row.kind == "model")
    assert model.recipe == "qdtrack_frcnn_r18_synthetic"
    assert set(model.loss_curves) >= {"rpn_cls", "cls", "track", "total"}
    assert len(model.per_sequence) == 2
    assert model.metrics["AP"] is not None
    bound = next(row for row in rows if row.kind == "bound")
    assert bound.metrics["FN"] <= model.metrics["FN"]


def test_the_leaderboard_ranks_what_the_job_logged(
    experiment: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "board.html"
    arguments = ["--output-root", str(experiment.output_root), "--html", str(page)]
    assert leaderboard.main(arguments) == 0
    assert "overlap only" in capsys.readouterr().out
    assert "overlap only" in page.read_text()


def test_exported_tracks_score_as_the_job_scored_them(
    experiment: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission"
    assert (
        export.main(
            ["--benchmark", "bdd100k", "--tracks", str(experiment.folders["tracks"]), str(out)]
        )
        == 0
    )
    truth = experiment.data_root / "labels" / "box_track_20" / "val"
    report = tmp_path / "scores.json"
    arguments = ["--benchmark", "bdd100k", "--truth", str(truth), "--results", str(out)]
    assert evaluate.main([*arguments, "--json", str(report)]) == 0
    (kept,) = (
        path
        for path in (experiment.output_root / "scores").rglob("report.json")
        if json.loads((path.parents[2] / "manifest.json").read_text())["details"]["tracks"]
        == experiment.folders["tracks"].name
    )
    assert report.read_bytes() == kept.read_bytes()


def test_the_stages_one_by_one_find_the_same_results(
    experiment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = experiment.arguments
    root = ["--output-root", str(experiment.output_root)]
    recipe = list(overrides[overrides.index("--num-workers") :])
    recipe += ["--recipe", "qdtrack_frcnn_r18_synthetic"]
    data = ["--data-root", str(experiment.data_root), "--split", "val"]
    assert ingest.main([*data, *root, *recipe]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(experiment.folders["frames"])
    weights = ["--weights", str(experiment.weights)]
    frames = ["--frames", str(experiment.folders["frames"])]
    assert infer.main([*frames, *weights, *recipe, "--associate"]) == 0
    folders = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    tracks = "parts/{}/tracks.parquet"
    for name in json.loads((experiment.folders["frames"] / "manifest.json").read_text())[
        "sequences"
    ]:
        one = (Path(folders["tracks"]) / tracks.format(name)).read_bytes()
        assert one == (experiment.folders["tracks"] / tracks.format(name)).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "qdtrack_frcnn_r50_bdd"], "qdtrack_frcnn_r50_bdd100k"),
        (["--set", "train.sed=3"], "train.seed"),
        (
            ["--set", "association.kind=deepsort"],
            "quasi_dense, tao, overlap, sort, bytetrack, ocsort",
        ),
        (["--set", "train.seed"], "path=value"),
        (["--weights", "absent.safetensors"], "absent.safetensors"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(
    experiment: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    data = ["--data-root", str(experiment.data_root), "--output-root", str(tmp_path / "out")]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_bdd.main([*data, *arguments])


def test_no_workers_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train_bdd.main(["--num-workers", "0"])
    assert caught.value.code == 2
    assert "'0' is not a whole number from 1" in capsys.readouterr().err


def test_a_published_recipe_never_starts_from_random_weights(
    experiment: Any, tmp_path: Path
) -> None:
    data = ["--data-root", str(experiment.data_root), "--output-root", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="backbone_weights"):
        train_bdd.main([*data, "--recipe", "qdtrack_frcnn_r50_bdd100k", "--num-workers", "2"])
