"""Infer and embed: the network over stored frames, one sequence at a time, by long-lived actors.

`infer` runs the detector and writes its boxes with their embeddings. `embed` takes the boxes from
elsewhere (here: ground truth, the bound that judges embeddings alone) and writes the same artefact.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Detections
from models.config_io import config_to_dict
from pipeline.associate import DETECTIONS_FILE
from pipeline.frames import Frame, FrameReader, read_annotations
from pipeline.model_store import load_model
from pipeline.parallel import map_sequences_with
from pipeline.store import Artefact, Part, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from models.qdtrack.model import QDTrack

logger = logging.getLogger(__name__)

STAGE: Final = "detections"
VERSION: Final = 1
"""Raised when the code changes what is stored."""

BoxSource = Literal["detector", "truth"]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """How stored frames pass through the network."""

    batch_size: int = 4
    """Frames per forward pass; batches never cross a sequence."""
    half_embeddings: bool = False
    """Store embeddings as float16: half the space, but identities may change."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")


def infer(
    frames: Artefact,
    weights: Artefact,
    config: InferConfig,
    *,
    boxes: BoxSource = "detector",
    num_workers: int = 1,
    num_gpus: float = 0.0,
) -> Artefact:
    """Detections of every sequence of `frames`; does only what is missing.

    Args:
        frames: finished artefact of ingest.
        weights: finished artefact of training or of an import.
        config: batches and precision.
        boxes: "detector" finds them; "truth" takes the ground truth, without crowd, ignored and
            unmapped boxes, at score 1, and adds the model's embeddings (the stage called embed).
        num_workers: actors; at most 1 runs in this process. The result does not depend on it.
        num_gpus: GPUs that each actor reserves; 0 runs on the CPU with one thread.

    Returns:
        The finished artefact, one Arrow file a sequence.
    """
    artefact = place_of_detections(frames, weights, config, boxes)
    if artefact.is_complete():
        return artefact
    sequences = frames.sequences()
    todo = {name: frames.part(name) for name in artefact.missing(sequences)}
    device = "cuda" if num_gpus else "cpu"
    map_sequences_with(
        partial(
            SequenceDetector,
            weights,
            artefact,
            config,
            boxes,
            frames.details()["benchmark"],
            device,
        ),
        todo,
        num_workers=num_workers,
        label=f"{'infer' if boxes == 'detector' else 'embed'} {frames.dataset}/{frames.split}",
        num_gpus=num_gpus,
    )
    counts = [artefact.part(name).details()["num_detections"] for name in sequences]
    inputs = {"frames": frames.fingerprint, "weights": weights.fingerprint}
    artefact.finish(
        sequences, {**_settings(config, boxes), **inputs, "num_detections": sum(counts)}
    )
    return artefact


def place_of_detections(
    frames: Artefact, weights: Artefact, config: InferConfig, boxes: BoxSource
) -> Artefact:
    """Where `infer` keeps what these give, there or not."""
    inputs = [frames.fingerprint, weights.fingerprint]
    return Artefact(
        root=frames.root,
        stage=STAGE,
        dataset=frames.dataset,
        split=frames.split,
        fingerprint=fingerprint(STAGE, VERSION, _settings(config, boxes), inputs),
    )


class SequenceDetector:
    """Holds the network of one worker and writes the detections of one sequence at a time."""

    def __init__(
        self,
        weights: Artefact,
        artefact: Artefact,
        config: InferConfig,
        boxes: BoxSource,
        benchmark: str,
        device: str,
    ) -> None:
        import torch

        # A different number of threads adds numbers in another order: results would then depend
        # on the number of workers.
        if device == "cpu":
            torch.set_num_threads(1)
        self._model = load_model(weights, device)
        self._artefact = artefact
        self._config = config
        self._boxes = boxes
        self._benchmark = benchmark

    def __call__(self, frames: Part) -> int:
        reader = FrameReader(frames)
        truth = None
        if self._boxes == "truth":
            truth = usable_truth(read_annotations(frames))
        classes = BENCHMARKS[self._benchmark].classes
        detections = detect_sequence(self._model, reader, classes, self._config, truth)
        with self._artefact.part(frames.name).write() as writer:
            writer.write_arrow(DETECTIONS_FILE, detections.to_table())
            writer.details = {
                "num_frames": detections.num_frames,
                "num_detections": len(detections),
            }
        return len(detections)


def usable_truth(annotations: Annotations) -> Annotations:
    """Annotations that a tracker is expected to find: no crowd, ignored or unmapped ones."""
    return annotations.select(
        ~annotations.crowd & ~annotations.ignored & (annotations.class_index >= 0)
    )


def detect_sequence(
    model: "QDTrack",
    reader: FrameReader,
    classes: Sequence[str],
    config: InferConfig,
    truth: Annotations | None = None,
) -> Detections:
    """Run the network over one sequence; pure but for the reading.

    Args:
        model: in evaluation mode, on its device.
        reader: the stored frames; a frame without an image gives no detections.
        classes: of the benchmark; the model's classes are matched to them by name.
        config: batches and precision.
        truth: boxes to embed in place of the detector's own; see `usable_truth`.

    Raises:
        ValueError: a frame that cannot be decoded, or a model that knows none of the classes.
    """
    class_map = map_classes(model.config.classes, classes)
    found: list[FrameDetections] = []
    for frames in reader.iterate(config.batch_size):
        if truth is None:
            found += detect_frames(model, frames, class_map)
        else:
            found += _embed_frames(model, frames, truth)
    return _join(found, model.config.embedding.embedding_dim, config.half_embeddings)


def map_classes(model_classes: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int16]:
    """Benchmark class of each class of a model, by name, -1 where the benchmark has none.

    Raises:
        ValueError: the two have no class in common.

    >>> map_classes(["car", "boat"], ["person", "car"]).tolist()
    [1, -1]
    """
    position = {name: index for index, name in enumerate(classes)}
    mapped = np.array([position.get(name, -1) for name in model_classes], np.int16)
    if not (mapped >= 0).any():
        raise ValueError(
            f"the model knows {', '.join(model_classes)}, the benchmark scores "
            f"{', '.join(classes)}: no class in common; choose other weights"
        )
    return mapped


@dataclass(frozen=True, kw_only=True)
class FrameDetections:
    """Detections of one frame, in the detector's order; columns as in `Detections`."""

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_indices: npt.NDArray[np.int16]
    embeddings: npt.NDArray[np.float32]


def detect_frames(
    model: "QDTrack", frames: Sequence[Frame], class_map: npt.NDArray[np.int16]
) -> list[FrameDetections]:
    """`detect_images` over stored frames; one without an image gives no detections.

    Raises:
        ValueError: a frame that cannot be decoded; names it.
    """
    results = [_nothing(model.config.embedding.embedding_dim)] * len(frames)
    places = [place for place, frame in enumerate(frames) if frame.image]
    images = [frames[place].decode() for place in places]
    for place, found in zip(places, detect_images(model, images, class_map), strict=True):
        results[place] = found
    return results


def detect_images(
    model: "QDTrack", images: Sequence[Image], class_map: npt.NDArray[np.int16]
) -> list[FrameDetections]:
    """One forward pass over some decoded images.

    Args:
        model: in evaluation mode, on its device.
        images: uint8, (H, W, 3) RGB in their original size; none gives no results.
        class_map: (number of the model's classes,) class index to report for each; a detection of
            a class at -1 is dropped.
    """
    import torch

    if not images:
        return []
    batch, sizes, scales = _network_input(model, images)
    with torch.inference_mode():
        detected = model.detect(batch, sizes, scale_factors=scales)
    results = []
    for detections in detected:
        classes = class_map[detections.class_indices.cpu().numpy()]
        known = classes >= 0
        found = FrameDetections(
            boxes_xyxy=detections.boxes_xyxy.float().cpu().numpy()[known],
            scores=detections.scores.float().cpu().numpy()[known],
            class_indices=classes[known],
            embeddings=detections.embeddings.float().cpu().numpy()[known],
        )
        results.append(found)
    return results


def _settings(config: InferConfig, boxes: BoxSource) -> dict[str, Any]:
    return {"infer": config_to_dict(config), "boxes": boxes}


def _embed_frames(
    model: "QDTrack", frames: Sequence[Frame], truth: Annotations
) -> list[FrameDetections]:
    """Embeddings of given boxes; a frame without an image has none, like any detector's."""
    import torch

    results = [_nothing(model.config.embedding.embedding_dim)] * len(frames)
    places = [place for place, frame in enumerate(frames) if frame.image]
    if not places:
        return results
    images, _, scales = _network_input(model, [frames[place].decode() for place in places])
    rows = [np.flatnonzero(truth.frame_index == frames[place].frame_index) for place in places]
    boxes = [truth.boxes_xyxy[r].astype(np.float32) for r in rows]
    scaled = [
        torch.from_numpy(b).to(scales.device) * scale.repeat(2)
        for b, scale in zip(boxes, scales, strict=True)
    ]
    with torch.inference_mode():
        embeddings = model.embed(images, scaled)
    for place, row, box, embedding in zip(places, rows, boxes, embeddings, strict=True):
        results[place] = FrameDetections(
            boxes_xyxy=box,
            scores=np.ones(len(row), np.float32),
            class_indices=truth.class_index[row],
            embeddings=embedding.float().cpu().numpy(),
        )
    return results


def _network_input(
    model: "QDTrack", images: Sequence[Image]
) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Batch (B, 3, H, W), sizes (B, 2) h w, and scale factors (B, 2) x y, on the model's device."""
    import torch

    from datasets.transforms import resize_keep_ratio
    from models.preprocess import normalise_batch

    settings = model.config.input
    resized, scales = [], []
    for image in images:
        scaled, scale = resize_keep_ratio(
            image, long_side=settings.long_side, short_side=settings.short_side
        )
        resized.append(scaled)
        scales.append(scale)
    device = next(model.parameters()).device
    batch, sizes = normalise_batch(resized, settings, device)
    return batch, sizes, torch.from_numpy(np.stack(scales)).to(device)


def _nothing(embedding_dim: int) -> FrameDetections:
    return FrameDetections(
        boxes_xyxy=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        class_indices=np.zeros(0, np.int16),
        embeddings=np.zeros((0, embedding_dim), np.float32),
    )


def _join(found: Sequence[FrameDetections], embedding_dim: int, half: bool) -> Detections:
    counts = [len(frame.scores) for frame in found]
    everything = [*found, _nothing(embedding_dim)]  # concatenation needs at least one
    embeddings = np.concatenate([frame.embeddings for frame in everything])
    return Detections(
        frame_offsets=np.cumsum([0, *counts], dtype=np.int64),
        boxes_xyxy=np.concatenate([frame.boxes_xyxy for frame in everything]),
        scores=np.concatenate([frame.scores for frame in everything]),
        class_indices=np.concatenate([frame.class_indices for frame in everything]),
        embeddings=embeddings.astype(np.float16) if half else embeddings,
    )
