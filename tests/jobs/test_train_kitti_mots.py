"""The job that trains PointTrack: wrong usage before any work, and the whole on tiny scenes."""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datasets.synthetic_mots import SyntheticMotsConfig, write_synthetic_mots
from jobs import train_kitti_mots
from models.pointtrack.config import PointTrackConfig
from models.pointtrack.network import PointTrackNet
from models.weights import save_weights
from tests.point_scene import make_segmenter

TINY = (
    "segmentation.crops.height=64",
    "segmentation.crops.width=96",
    "segmentation.on_crops.epochs=1",
    "segmentation.on_crops.images_per_epoch=8",
    "segmentation.on_crops.validation_images=2",
    "segmentation.on_crops.validation_height=64",
    "segmentation.on_crops.validation_width=96",
    "segmentation.on_crops.decay_epochs=none",
    "segmentation.on_frames.epochs=1",
    "segmentation.on_frames.images_per_epoch=4",
    "segmentation.on_frames.images_per_step=2",
    "segmentation.on_frames.learning_rate=1e-4",
    "segmentation.on_frames.crop_height=64",
    "segmentation.on_frames.crop_width=96",
    "segmentation.on_frames.freeze_norms=true",
    "segmentation.on_frames.validation_images=2",
    "segmentation.on_frames.validation_height=64",
    "segmentation.on_frames.validation_width=96",
    "segmentation.infer.seed_threshold=0.3",
    "segmentation.infer.min_pixels=10",
    "embedding.model.num_points=16",
    "embedding.model.num_environment_points=8",
    "embedding.model.embedding_dim=8",
    "embedding.train.items.num_tracks=4",
    "embedding.train.schedule.epochs=1",
    "embedding.train.schedule.items_per_epoch=4",
    "embedding.train.schedule.step_epochs=()",
    "embedding.train.validation_sequences=1",
)
"""Overrides with which the job takes seconds; the scores mean nothing."""

STEPS = (
    *("ingest train", "ingest val", "crops", "train segmentation on_crops"),
    *("train segmentation on_frames", "segment", "instances", "train association"),
    *("embed", "embed truth", "track and score, model", "track and score, baseline"),
    *("track and score, bound", "overlay video"),
)


def run(arguments: Sequence[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert train_kitti_mots.main(arguments) == 0
    return output.getvalue()


def took(output: str) -> dict[str, str]:
    """Label of each step -> its time, or "reused"."""
    found = {}
    for line in output.splitlines():
        for label in STEPS:
            if line.startswith(f"{label} "):
                rest = line[28:].split()
                found[label] = "reused" if rest[0] == "reused" else "done"
    return found


@dataclass(frozen=True)
class Whole:
    """What the first run left."""

    data_root: Path
    root: Path
    arguments: tuple[str, ...]
    output: str


@pytest.fixture(scope="module")
def tiny_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "mots"
    config = SyntheticMotsConfig(num_train=2, num_val=2, num_frames=6, width=160, height=96)
    write_synthetic_mots(root, config)
    return root


@pytest.fixture(scope="module")
def whole(ray_session: None, tiny_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("out")
    overrides = [argument for text in TINY for argument in ("--set", text)]
    arguments = (
        *("--data-root", str(tiny_scenes), "--output-root", str(root), "--num-workers", "1"),
        *("--recipe", "pointtrack_synthetic_car", *overrides),
    )
    return Whole(tiny_scenes, root, arguments, run(arguments))


@pytest.mark.slow
class TestWhole:
    def test_every_step_is_done_and_three_rows_are_printed(self, whole: Whole) -> None:
        assert took(whole.output) == dict.fromkeys(STEPS, "done") | {
            "overlay video": took(whole.output)["overlay video"]
        }
        for text in (
            "pointtrack_synthetic_car, mask overlap only",
            "pointtrack_synthetic_car, true masks",
            "sMOTSA",
            "overlay video",
            "jobs.leaderboard",
        ):
            assert text in whole.output
        stages = ("frames", "segmentation", "masks", "weights", "detections", "tracks")
        for stage in stages:
            [folder] = [
                Path(line.split()[1])
                for line in whole.output.splitlines()
                if line.startswith(f"{stage} ") and f"{whole.root}/" in line
            ]
            assert (folder / "manifest.json").is_file()
        [video] = (whole.root / "overlays").rglob("overlay.mp4")
        assert video.stat().st_size > 1000

    def test_rows_in_mlflow(self, whole: Whole) -> None:
        from pipeline.runlog import RunLog

        rows = RunLog(None, str(whole.root)).results("synthetic_mots", "val")
        by_kind = {row.kind: row for row in rows}
        assert sorted(row.kind for row in rows) == ["baseline", "bound", "model"]
        assert {row.protocol for row in rows} == {"kitti_mots"}
        assert {row.recipe for row in rows} == {"pointtrack_synthetic_car"}
        assert len({row.process_run_id for row in rows}) == 1
        assert len(by_kind["model"].per_sequence) == 2
        assert "total" in by_kind["model"].loss_curves
        assert by_kind["model"].detections == "own segmentation"
        assert by_kind["bound"].detections == "ground truth"
        assert by_kind["bound"].per_class["car"]["FN"] == 0
        assert by_kind["bound"].per_class["car"]["FP"] == 0
        assert by_kind["baseline"].tracker.startswith("mask_overlap")
        same = ("TP", "FP", "FN")
        model, baseline = (by_kind[kind].per_class["car"] for kind in ("model", "baseline"))
        assert [model[name] for name in same] == [baseline[name] for name in same]

    def test_metrics_of_each_training_have_their_own_names(self, whole: Whole) -> None:
        import mlflow

        from pipeline.runlog import RunLog

        [process, *_] = {
            row.process_run_id
            for row in RunLog(None, str(whole.root)).results("synthetic_mots", "val")
        }
        [database] = whole.root.rglob("mlflow.db")
        client = mlflow.MlflowClient(f"sqlite:///{database}")
        assert process is not None
        metrics = client.get_run(process).data.metrics
        for name in (
            "segmentation_on_crops/total",
            "segmentation_on_crops/validation_total",
            "segmentation_on_frames/validation_iou",
            "association/total",
            "association/validation/sMOTSA",
        ):
            assert name in metrics, sorted(metrics)

    def test_masks_were_found(self, whole: Whole) -> None:
        """With too few the rest of these tests would show nothing."""
        [line] = [one for one in whole.output.splitlines() if one.startswith("segment ")]
        assert int(line.split()[-2]) > 5

    def test_a_second_run_reuses_everything(self, whole: Whole) -> None:
        again = took(run(whole.arguments))
        assert again.pop("overlay video")
        assert again == dict.fromkeys(STEPS[:-1], "reused")

    def test_stages_one_by_one_find_what_the_whole_did(self, whole: Whole) -> None:
        output = run([*whole.arguments, "--stage", "segmentation"])
        assert took(output) == dict.fromkeys(STEPS[:6], "reused")
        assert "sMOTSA" not in output
        assert "detections " not in output
        output = run([*whole.arguments, "--stage", "association"])
        assert took(output).keys() == set(STEPS)

    def test_association_alone_trains_no_segmentation(self, whole: Whole) -> None:
        """It took hours instead of saying that there is none."""
        other = ["--set", "segmentation.on_crops.seed=5", "--stage", "association"]
        with pytest.raises(ValueError, match="was not trained yet; train it with --stage segm"):
            run([*whole.arguments, *other])

    def test_given_weights_take_the_place_of_training(self, whole: Whole, tmp_path: Path) -> None:
        masks = [one for one in whole.output.splitlines() if one.startswith("segmentation ")]
        weights = [one for one in whole.output.splitlines() if one.startswith("weights ")]
        files = [
            Path(lines[-1].split()[1]) / "parts" / "model" / "model.safetensors"
            for lines in (masks, weights)
        ]
        given = ["--segmentation-weights", str(files[0]), "--weights", str(files[1])]
        output = run([*whole.arguments, *given])
        assert not {"crops", "instances"} & took(output).keys()
        assert not [label for label in took(output) if label.startswith("train ")]
        assert "pointtrack_synthetic_car, segmentation and association not trained here" in output


class TestWrongUsage:
    """Named before any work."""

    @pytest.fixture(autouse=True)
    def without_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wrong input is found before an experiment begins, or as its first thing."""
        from pipeline import cluster

        monkeypatch.setattr(cluster, "connect", lambda num_cpus=None: None)
        monkeypatch.setattr("jobs.options.choose_workers", lambda *arguments: 1)
        monkeypatch.setattr(cluster, "check_shared_root", lambda root: None)

    def refused(self, tmp_path: Path, *arguments: str) -> str:
        root = tmp_path / "out"
        places = ["--data-root", str(tmp_path / "absent"), "--output-root", str(root)]
        with pytest.raises((ValueError, OSError)) as caught:
            run([*places, *arguments])
        assert not root.exists()
        return str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--recipe", "pointtrack_kitti_mots"], "did you mean pointtrack_kitti_mots"),
            (["--recipe", "qdtrack_frcnn_r50_bdd100k"], "tracks boxes (jobs.train_bdd)"),
            (
                ["--recipe", "pointtrack_kitti_mots_pedestrian"],
                "tracks pedestrian, but --class-name is car; give one that fits the other",
            ),
            (
                ["--recipe", "pointtrack_kitti_mots_car", "--class-name", "pedestrian"],
                "tracks car, but --class-name is pedestrian",
            ),
            (["--set", "segmentation.on_crop.epochs=1"], "segmentation.on_crops"),
            (["--set", "association.match_threshold=high"], "association.match_threshold"),
            (["--recipe", "pointtrack_kitti_mots_car_published"], "give --kins-root or"),
            (["--set", "evaluation.protocol=mot17"], "evaluation.protocol is 'mot17'"),
            (["--weights", "absent.safetensors"], "absent.safetensors"),
            (["--segmentation-weights", "absent.safetensors"], "absent.safetensors"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        assert message in self.refused(tmp_path, *arguments)

    def test_weights_of_another_class_or_network(self, tmp_path: Path) -> None:
        """They were run to the end, and a row for cars held pedestrians."""
        people = tmp_path / "people.safetensors"
        save_weights(people, make_segmenter(class_name="pedestrian"))
        network = tmp_path / "network.safetensors"
        config = PointTrackConfig(class_name="pedestrian", num_points=8, num_environment_points=4)
        save_weights(network, PointTrackNet(config))
        message = "weights for pedestrian, but car is tracked"
        assert message in self.refused(tmp_path, "--segmentation-weights", str(people))
        assert message in self.refused(tmp_path, "--weights", str(network))
        message = "weights of the model 'pointtrack', expected SpatialEmbeddingConfig"
        assert message in self.refused(tmp_path, "--segmentation-weights", str(network))
        message = "weights of the model 'spatial_embedding', expected PointTrackConfig"
        assert message in self.refused(tmp_path, "--weights", str(people))

    def test_an_unknown_class_or_stage_is_wrong_usage(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for arguments in (["--class-name", "tram"], ["--stage", "both"]):
            with pytest.raises(SystemExit) as caught:
                train_kitti_mots.main(arguments)
            assert caught.value.code == 2
            assert arguments[1] in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "ignored"),
        [
            (["--stage", "segmentation", "--set", "embedding.train.seed=1"], "embedding.train."),
            (["--stage", "segmentation", "--set", "association.keep_alive_frames=1"], "assoc"),
            (["--stage", "segmentation", "--weights", "a.safetensors"], "--weights"),
            (
                ["--segmentation-weights", "a", "--set", "segmentation.on_crops.epochs=1"],
                "on_crops",
            ),
            (["--segmentation-weights", "a", "--set", "segmentation.on_frames=none"], "on_frames"),
            (["--segmentation-weights", "a", "--kins-root", "b"], "--kins-root"),
            (["--weights", "a", "--set", "embedding.train.seed=1"], "embedding.train.seed"),
            (["--weights", "a", "--set", "embedding.model.margin=1"], "embedding.model.margin"),
        ],
    )
    def test_a_setting_that_is_not_read_warns(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        ignored: str,
    ) -> None:
        self.watch(monkeypatch)
        with caplog.at_level(logging.WARNING):
            run(["--data-root", str(tmp_path), "--output-root", str(tmp_path), *arguments])
        assert ignored in caplog.text
        assert "has no effect here" in caplog.text

    def test_settings_that_are_read_do_not_warn(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = self.watch(monkeypatch)
        given = ["--set", "segmentation.infer.min_pixels=9", "--segmentation-weights", "a"]
        given += ["--set", "association.match_threshold=0.5", "--set", "embedding.points.seed=3"]
        given += ["--weights", "b", "--class-name", "pedestrian"]
        run(["--data-root", str(tmp_path), "--output-root", str(tmp_path), *given])
        assert "no effect" not in caplog.text
        config, options = seen
        assert config.recipe == "pointtrack_kitti_mots_pedestrian"
        assert (config.segmentation.infer.min_pixels, config.embedding.points.seed) == (9, 3)
        assert config.association.match_threshold == 0.5
        assert (options.segmentation_weights, options.weights) == (Path("a"), Path("b"))
        assert (options.stage, options.data_root) == ("all", tmp_path)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The config and the options that an experiment would have had."""
        from pipeline import mots_experiment
        from pipeline.experiment import Outcome

        seen: list[Any] = []

        def note(config: Any, options: Any, say: Any) -> Outcome:
            seen.extend((config, options))
            return Outcome(rows=(), artefacts={}, overlay="", how_to_view="")

        monkeypatch.setattr(mots_experiment, "run_mots_experiment", note)
        return seen

    def test_without_data_the_synthetic_recipe_of_the_class_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = self.watch(monkeypatch)
        monkeypatch.setattr("datasets.synthetic_mots.write_synthetic_mots", lambda *_: None)
        for class_name in ("car", "pedestrian"):
            output = run(["--output-root", str(tmp_path), "--class-name", class_name])
            assert "SYNTHETIC" in output
            config, options = seen[-2:]
            assert config.recipe == f"pointtrack_synthetic_{class_name}"
            assert options.notes == "synthetic data"
            assert options.data_root == tmp_path / "raw" / "synthetic_mots"
