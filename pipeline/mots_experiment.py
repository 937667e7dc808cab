"""Tracking and segmentation of one class, from raw files to leaderboard rows: only what is missing.

Steps: ingest; crops, the segmentation in one or two stages, its masks on the evaluation split; the
instances, the association network, its embeddings; then association and scores, beside the same
masks joined by their overlap alone (a baseline) and the true masks (a bound); one overlay video;
the rows in MLflow. Each step says whether it worked or reused what was there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from datasets.registry import BENCHMARKS
from models.config_io import config_to_dict
from models.pointtrack.config import PointTrackConfig, SpatialEmbeddingConfig
from pipeline import steps
from pipeline.config import MotsConfig
from pipeline.contestants import Contestant, join_notes, overlap_baseline, overlap_words
from pipeline.experiment import Outcome, check_before_work, enter
from pipeline.fit import OnMetrics
from pipeline.ingest import DataConfig
from pipeline.overlay import overlay
from pipeline.prepare import prepare_crops, prepare_instances, select_frames
from pipeline.progress import Say
from pipeline.segment import embed_masks, segment, take_truth
from pipeline.steps import Step, WorkOptions
from pipeline.store import Artefact

if TYPE_CHECKING:
    from pipeline.runlog import ProcessRun
    from pipeline.segmentation_training import FrameSource, SampleSource

TrainedStage = Literal["segmentation", "association", "all"]
NetworkConfig = TypeVar("NetworkConfig", SpatialEmbeddingConfig, PointTrackConfig)

_KINS_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class MotsOptions(WorkOptions):
    """What a job was asked for beside the config."""

    data_root: Path
    """Folder of the benchmark's raw files."""
    kins_root: Path | None = None
    """Folder of KINS, whose images the first stage of segmentation learns from, too."""
    stage: TrainedStage = "all"
    """"segmentation" stops after the masks; "association" takes a segmentation that is there."""
    segmentation_weights: Path | None = None
    """Weights of the segmentation, to use in place of training."""
    weights: Path | None = None
    """Weights of the association network, likewise."""
    notes: str = ""
    """Shown with every row of the leaderboard."""


def run_mots_experiment(config: MotsConfig, options: MotsOptions, say: Say) -> Outcome:
    """Do everything that is missing and log it; Ray must be connected.

    Raises:
        ValueError: wrong input anywhere; what was finished before stays and is reused.
    """
    from pipeline.runlog import RunLog

    check_before_work(config, options)
    _check_crops(config, options)
    config = _with_given_weights(config, options)
    run_log = RunLog(options.tracking_uri, options.output_root)
    splits = [*config.data.train_splits, config.data.evaluation_split]
    frames = steps.ingest_splits(config.data, splits, options.data_root, options, say)
    evaluated = frames[config.data.evaluation_split]
    steps.check_has_labels(evaluated)
    with run_log.process_run(config.recipe, config=config, inputs=frames) as run:
        run.log_files({"config.json": json.dumps(config_to_dict(config), indent=1).encode()})
        work = _Work(config, options, frames, run, say)
        segmentation = work.segmentation_weights()
        masks = work.segment(segmentation)
        artefacts = {"frames": evaluated, "segmentation": segmentation, "masks": masks}
        if options.stage == "segmentation":
            return Outcome(rows=(), artefacts=artefacts, overlay="", how_to_view="")
        weights = work.association_weights(masks)
        contestants = work.contestants(masks, weights)
        entries = [
            enter(config, options, evaluated, weights, contestant, run_log, run, say)
            for contestant in contestants
        ]
        rows, tracks = zip(*entries, strict=True)
        with Step(say, "overlay video") as step:
            video = overlay(evaluated, tracks[0], BENCHMARKS[config.data.benchmark].classes)
            step.done(video)
        run.log_files({"overlay.mp4": video if "://" in video else Path(video)})
    return Outcome(
        rows=rows,
        artefacts={
            **artefacts,
            "weights": weights,
            "detections": contestants[0].detections,
            "tracks": tracks[0],
        },
        overlay=video,
        how_to_view=run_log.how_to_view(config.data.dataset, config.data.evaluation_split),
    )


def _check_crops(config: MotsConfig, options: MotsOptions) -> None:
    crops = config.segmentation.crops
    if crops.stills_only and options.kins_root is None and options.segmentation_weights is None:
        raise ValueError(
            f"recipe {config.recipe!r} cuts no crops from sequences (segmentation.crops.stills_only"
            "), so without KINS there are none: give --kins-root or --segmentation-weights"
        )


def _with_given_weights(config: MotsConfig, options: MotsOptions) -> MotsConfig:
    """The config that is reported: with the networks that are used, not those of the recipe.

    Raises:
        ValueError: weights of another network or class.
        FileNotFoundError: no such file.
    """
    segmentation, embedding = config.segmentation, config.embedding
    given = []
    if options.segmentation_weights is not None:
        model = _config_of(options.segmentation_weights, SpatialEmbeddingConfig, config.class_name)
        segmentation = replace(segmentation, model=model)
        given.append("segmentation")
    if options.weights is not None and options.stage != "segmentation":
        association = _config_of(options.weights, PointTrackConfig, config.class_name)
        embedding = replace(embedding, model=association)
        given.append("association")
    if not given:
        return config
    recipe = f"{config.recipe}, {' and '.join(given)} not trained here"
    return replace(config, recipe=recipe, segmentation=segmentation, embedding=embedding)


def _config_of(path: Path, kind: type[NetworkConfig], class_name: str) -> NetworkConfig:
    from models.weights import read_metadata

    metadata = read_metadata(path)
    if not isinstance(metadata.config, kind):
        raise ValueError(
            f"{path}: weights of the model {metadata.model!r}, expected {kind.__name__}"
        )
    if metadata.config.class_name != class_name:
        raise ValueError(
            f"{path}: weights for {metadata.config.class_name}, but {class_name} is tracked; give "
            "--class-name, or other weights"
        )
    return metadata.config


class _Work:
    """The steps of one experiment."""

    def __init__(
        self,
        config: MotsConfig,
        options: MotsOptions,
        frames: Mapping[str, Artefact],
        run: "ProcessRun",
        say: Say,
    ) -> None:
        self._config = config
        self._options = options
        self._frames = frames
        self._evaluated = frames[config.data.evaluation_split]
        self._run = run
        self._say = say

    def segmentation_weights(self) -> Artefact:
        """Those given, or those of the last stage."""
        given, data = self._options.segmentation_weights, self._config.data
        if given is not None:
            return steps.adopt(given, data.dataset, self._options, self._say)
        config = self._config.segmentation
        weights = self._train_on_crops()
        if config.on_frames is not None:
            weights = self._train_on_frames(weights)
        return weights

    def segment(self, weights: Artefact) -> Artefact:
        """Masks of the evaluation split."""
        with Step(self._say, "segment") as step:
            masks = segment(
                self._evaluated,
                weights,
                self._config.segmentation.infer,
                num_workers=self._options.num_workers,
                num_gpus=self._options.gpus_per_worker,
            )
            step.done(f"{masks.details()['num_detections']} masks", masks)
        return masks

    def association_weights(self, masks: Artefact) -> Artefact:
        """Those given, or those trained on the instances of the training split."""
        from pipeline.association_training import TrackingScorer, train_association

        config, options = self._config, self._options
        if options.weights is not None:
            return steps.adopt(options.weights, config.data.dataset, options, self._say)
        with Step(self._say, "instances") as step:
            instances = prepare_instances(self._train_frames(), config.class_name)
            step.done(f"{instances.details()['num_instances']} of {config.class_name}", instances)
        with Step(self._say, "train association") as step:
            weights = train_association(
                instances,
                config.embedding.model,
                config.embedding.train,
                score_epoch=TrackingScorer(
                    frames=self._evaluated,
                    detections=masks,
                    class_name=config.class_name,
                    num_sequences=config.embedding.train.validation_sequences,
                    embed=config.embedding.points,
                    association=config.association,
                    evaluation=config.evaluation,
                ),
                num_workers=steps.training_workers(
                    "embedding.train.items_per_step",
                    config.embedding.train.items_per_step,
                    options.num_workers,
                ),
                gpus_per_worker=options.gpus_per_worker,
                on_metrics=self._log_as("association"),
            )
            step.done(f"{weights.details()['steps']} steps", weights)
        return weights

    def contestants(self, masks: Artefact, weights: Artefact) -> list[Contestant]:
        """The model, and the two rows that say how good it is."""
        config, notes = self._config, self._options.notes
        truth = take_truth(self._evaluated, config.class_name)
        baseline = overlap_baseline(config.association)
        words = overlap_words(baseline)
        found = self._embed(masks, weights, "embed")
        perfect = self._embed(truth, weights, "embed truth")
        return [
            Contestant(
                kind="model",
                title=config.recipe,
                detections=found,
                association=config.association,
                detection_source="own segmentation",
                notes=notes,
            ),
            Contestant(
                kind="baseline",
                title=f"{config.recipe}, {words}",
                detections=found,
                association=baseline,
                detection_source="own segmentation",
                notes=join_notes(f"the same masks joined by {words}", notes),
            ),
            Contestant(
                kind="bound",
                title=f"{config.recipe}, true masks",
                detections=perfect,
                association=config.association,
                detection_source="ground truth",
                notes=join_notes("ground-truth masks: a bound, not a tracker", notes),
            ),
        ]

    def _train_on_crops(self) -> Artefact:
        from pipeline.segmentation_training import CropSource

        config = self._config.segmentation
        frames = [self._train_frames(), *self._kins()]
        with Step(self._say, "crops") as step:
            crops = [prepare_crops(artefact, config.crops) for artefact in frames]
            count = sum(artefact.details()["num_crops"] for artefact in crops)
            step.done(f"{count} around instances of {self._config.class_name}", crops[-1])
        return self._train_segmentation("on_crops", CropSource(crops=tuple(crops)), None)

    def _train_on_frames(self, start: Artefact) -> Artefact:
        return self._train_segmentation(
            "on_frames", self._frame_source(self._train_frames()), start
        )

    def _train_segmentation(
        self, stage: str, source: "SampleSource", start: Artefact | None
    ) -> Artefact:
        from pipeline.segmentation_training import train_segmentation

        train_config = getattr(self._config.segmentation, stage)
        with Step(self._say, f"train segmentation {stage}") as step:
            weights = train_segmentation(
                source,
                self._config.segmentation.model,
                train_config,
                root=self._options.output_root,
                dataset=self._config.data.dataset,
                split="+".join(self._config.data.train_splits),
                start=start,
                validation=self._frame_source(self._evaluated),
                num_workers=steps.training_workers(
                    f"segmentation.{stage}.images_per_step",
                    train_config.images_per_step,
                    self._options.num_workers,
                ),
                gpus_per_worker=self._options.gpus_per_worker,
                on_metrics=self._log_as(f"segmentation_{stage}"),
                must_exist=self._options.stage == "association",
            )
            step.done(f"{weights.details()['steps']} steps", weights)
        return weights

    def _log_as(self, training: str) -> OnMetrics:
        """A run counts the steps of each training from 1: its metrics have names of their own."""
        return lambda step, row: self._run.log_metrics(
            step, {f"{training}/{name}": value for name, value in row.items()}
        )

    def _frame_source(self, frames: Artefact) -> "FrameSource":
        from pipeline.segmentation_training import FrameSource

        selected = tuple(select_frames(frames, self._config.class_name))
        return FrameSource(frames=frames, class_name=self._config.class_name, selected=selected)

    def _embed(self, masks: Artefact, weights: Artefact, label: str) -> Artefact:
        with Step(self._say, label) as step:
            embedded = embed_masks(
                self._evaluated,
                masks,
                weights,
                self._config.embedding.points,
                num_workers=self._options.num_workers,
                num_gpus=self._options.gpus_per_worker,
            )
            step.done(f"{embedded.details()['num_detections']} masks", embedded)
        return embedded

    def _train_frames(self) -> Artefact:
        return self._frames[self._config.data.train_splits[0]]

    def _kins(self) -> list[Artefact]:
        if self._options.kins_root is None:
            return []
        data = DataConfig(benchmark="kins", dataset="kins", train_splits=_KINS_SPLITS)
        root = self._options.kins_root
        found = steps.ingest_splits(data, _KINS_SPLITS, root, self._options, self._say)
        return list(found.values())
