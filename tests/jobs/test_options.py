"""Arguments that several jobs share: what is wrong usage, and how many workers there are."""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs import evaluate, infer, ingest, options, track
from pipeline.config import ExperimentConfig


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_the_number_of_workers_counts_from_1(text: str) -> None:
    parser = argparse.ArgumentParser()
    options.add_run_options(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--num-workers", text])
    assert caught.value.code == 2


def test_the_data_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of Ray run in other working directories, and nobody else expands the tilde."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    parser = argparse.ArgumentParser()
    options.add_data_options(parser, required=True)
    found = [parser.parse_args(["--data-root", text]).data_root for text in ("raw", "~/raw")]
    assert found == [tmp_path / "raw", tmp_path / "home" / "raw"]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (ingest.main, ["--data-root", ".", "--split", "val", "--benchmark", "kitti"]),
        (ingest.main, ["--data-root", ".", "--split", "val", "--gpus-per-worker", "1"]),
        (infer.main, ["--frames", "f", "--weights", "w", "--output-root", "elsewhere"]),
        (infer.main, ["--frames", "f", "--weights", "w", "--num-workers", "0"]),
        (evaluate.main, ["--benchmark", "mot17", "--truth", "t", "--results", "r", "--gpus", "1"]),
    ],
)
def test_what_would_have_no_effect_is_wrong_usage(
    main: Callable[[Sequence[str]], int], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.slow
def test_workers_are_never_more_than_the_cluster_holds(
    ray_session: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert options.choose_workers(None) == 2
    assert options.choose_workers(1) == 1
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert options.choose_workers(8) == 2
    assert "2 workers in place of 8" in caplog.text


@pytest.mark.slow
def test_gpus_that_no_node_has_are_an_error(ray_session: None) -> None:
    """The suite's Ray has all CPUs it says, but no thousand GPUs anywhere."""
    with pytest.raises(ValueError, match=r"--gpus-per-worker is 1000.*leave it out"):
        options.choose_workers(2, 1000.0)


def with_overrides(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_config_options(parser, default_recipe=None)
    return parser.parse_args(arguments)


def test_an_override_without_effect_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No error: the same ones may be given to one job after the other."""
    recipe, unread = "qdtrack_frcnn_r18_synthetic", {"train.": "nothing is trained"}
    file = tmp_path / "best.toml"
    file.write_text("[train]\nseed = 3\n[association]\ninit_score_thr = 0.7\n")
    arguments = with_overrides("--set-file", str(file), "--set", "train.window=16")
    config = options.build_config(recipe, arguments, ExperimentConfig, unread=unread)
    assert config.association.init_score_thr == 0.7
    assert [record.message for record in caplog.records] == [
        f"{file}: train.seed has no effect here: nothing is trained",
        "--set: train.window has no effect here: nothing is trained",
    ]


@pytest.mark.parametrize(
    ("main", "arguments", "assignment"),
    [
        (infer.main, ["--frames", "nowhere", "--weights", "w"], "association.init_score_thr=0.5"),
        (infer.main, ["--frames", "nowhere", "--weights", "w"], "train.seed=1"),
        (track.main, ["nowhere.mp4", "--weights", "w"], "infer.half_embeddings=true"),
    ],
)
def test_jobs_say_what_they_do_not_read(
    main: Callable[[Sequence[str]], int],
    arguments: list[str],
    assignment: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)):  # there is nothing to work on
        main([*arguments, "--set", assignment])
    path = assignment.partition("=")[0]
    assert f"{path} has no effect here" in caplog.text
