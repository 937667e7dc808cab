"""Detections with masks: the segmentation over stored frames, true masks, and their embeddings.

`segment` runs the segmentation of one class and clusters its output. `take_truth` writes the true
masks of a class in the same form, the bound that judges association alone. `embed_masks` passes
either of them, with the pixels of their frames, through the association network. All three write
the artefact that `pipeline.infer` writes for boxes, one sequence at a time, by long-lived actors.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from datasets.masks import Rle, decode_mask, encode_instances, mask_boxes
from datasets.mots_crops import is_instance
from datasets.registry import BENCHMARKS
from datasets.schema import Detections, masks_of
from models.config_io import config_to_dict
from pipeline.associate import DETECTIONS_FILE, read_detections
from pipeline.frames import Frame, FrameReader, read_annotations
from pipeline.infer import STAGE
from pipeline.model_store import load_network
from pipeline.parallel import map_sequences_with
from pipeline.store import Artefact, Part, fingerprint

if TYPE_CHECKING:
    from models.pointtrack.network import PointTrackNet
    from models.pointtrack.segmentation import SpatialEmbedding

VERSION: Final = 1
"""Raised when the code changes what is stored."""


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How the output of the segmentation becomes instances; None keeps what the weights say."""

    seed_threshold: float | None = None
    """Least seed score of the pixel that an instance starts from."""
    min_pixels: int | None = None
    """An instance has more pixels than this."""

    def __post_init__(self) -> None:
        if self.seed_threshold is not None and not 0 <= self.seed_threshold <= 1:
            raise ValueError(
                f"seed_threshold is {self.seed_threshold}, expected a share between 0 and 1"
            )
        if self.min_pixels is not None and self.min_pixels < 0:
            raise ValueError(f"min_pixels is {self.min_pixels}, expected at least 0")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How instances become points."""

    seed: int = 0
    """Of the draws; every frame has its own, which follow from this, its sequence and its index."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameMasks:
    """Masks found in one frame, disjoint."""

    masks: tuple[Rle, ...]
    scores: npt.NDArray[np.float32]


def segment(
    frames: Artefact,
    weights: Artefact,
    config: SegmentConfig,
    *,
    num_workers: int = 1,
    num_gpus: float = 0.0,
) -> Artefact:
    """Instances of one class in every frame, without embeddings; does only what is missing.

    Args:
        frames: finished artefact of ingest.
        weights: of a `spatial_embedding` model; its config names the class.
        config: thresholds of clustering.
        num_workers: actors; at most 1 runs in this process. The result does not depend on it.
        num_gpus: GPUs that each actor reserves; 0 runs on the CPU with one thread.

    Raises:
        ValueError: the benchmark has no such class, or the weights are of another model.
    """
    device = "cuda" if num_gpus else "cpu"
    return _detect(
        frames,
        {"segment": config_to_dict(config), "weights": weights.fingerprint},
        partial(_Segmenter, weights, config, frames.details()["benchmark"], device),
        label="segment",
        num_workers=num_workers,
        num_gpus=num_gpus,
    )


def take_truth(frames: Artefact, class_name: str, *, num_workers: int = 1) -> Artefact:
    """The true masks of a class, at score 1, without ignore regions; see `segment`."""
    benchmark = frames.details()["benchmark"]
    return _detect(
        frames,
        _truth_settings(class_name),
        partial(_Truth, BENCHMARKS[benchmark].class_index(class_name)),
        label="true masks",
        num_workers=num_workers,
        num_gpus=0.0,
    )


def embed_masks(
    frames: Artefact,
    detections: Artefact,
    weights: Artefact,
    config: EmbedConfig,
    *,
    num_workers: int = 1,
    num_gpus: float = 0.0,
) -> Artefact:
    """The same detections with the embeddings of an association network.

    Args:
        frames: that the detections were made from.
        detections: with disjoint masks, of one class.
        weights: of a `pointtrack` model.
        config: seed of the points.
        num_workers: see `segment`.
        num_gpus: see `segment`.
    """
    device = "cuda" if num_gpus else "cpu"
    return _detect(
        frames,
        _embed_settings(detections, weights, config),
        partial(_Embedder, weights, detections, config, device),
        label="embed",
        num_workers=num_workers,
        num_gpus=num_gpus,
    )


def place_of_truth(frames: Artefact, class_name: str) -> Artefact:
    """Where `take_truth` keeps what these give, there or not."""
    return _place(frames, _truth_settings(class_name))


def place_of_embedded(
    frames: Artefact, detections: Artefact, weights: Artefact, config: EmbedConfig
) -> Artefact:
    """Likewise for `embed_masks`."""
    return _place(frames, _embed_settings(detections, weights, config))


def segment_image(
    model: "SpatialEmbedding", image_rgb: npt.NDArray[np.uint8], config: SegmentConfig
) -> FrameMasks:
    """Instances of one image, in the order in which clustering accepted them.

    Args:
        model: in evaluation mode, on its device.
        image_rgb: uint8 (H, W, 3).
        config: thresholds.
    """
    import torch

    from models.pointtrack.clustering import cluster_with_scores

    device = next(model.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(image_rgb)).to(device)
    with torch.inference_mode():
        prediction = model.predict(pixels.permute(2, 0, 1)[None].float() / 255)[0]
    own = model.config
    found = cluster_with_scores(
        prediction.float(),
        seed_threshold=_first(config.seed_threshold, own.seed_threshold),
        min_pixels=int(_first(config.min_pixels, own.min_pixels)),
    )
    # A later instance may have taken all pixels of an earlier one.
    ids = np.flatnonzero(np.bincount(found.instances.ravel(), minlength=1)[1:]) + 1
    return FrameMasks(
        masks=tuple(encode_instances(found.instances, ids.tolist())),
        scores=found.scores[ids - 1],
    )


def embed_frame(
    model: "PointTrackNet",
    image_rgb: npt.NDArray[np.uint8],
    masks: tuple[Rle, ...],
    rng: np.random.RandomState,
) -> npt.NDArray[np.float32]:
    """(N, D) embeddings of the masks of one image; where masks overlap, the later one counts.

    Args:
        model: in evaluation mode, on its device.
        image_rgb: uint8 (H, W, 3); points have their colours as blue green red, as published.
        masks: of this image.
        rng: draws the points, mask after mask.

    Raises:
        ValueError: a mask of another size, or one without a pixel of its own.
    """
    import torch

    from models.pointtrack.points import frame_points

    if not masks:
        return np.zeros((0, model.config.embedding_dim), np.float32)
    instances = _instance_map(masks, image_rgb.shape[:2])
    points, positions = frame_points(
        np.ascontiguousarray(image_rgb[..., ::-1]),
        instances,
        rng,
        num_points=model.config.num_points,
        num_environment_points=model.config.num_environment_points,
    )
    device = next(model.parameters()).device
    with torch.inference_mode():
        embeddings = model(
            torch.from_numpy(points).to(device), torch.from_numpy(positions).to(device)
        )
    found: npt.NDArray[np.float32] = embeddings.float().cpu().numpy()
    return found


def frame_random(seed: int, sequence: str, frame_index: int) -> np.random.RandomState:
    """Source of the points of one frame, the same whoever computes it."""
    text = f"points {seed} {sequence} {frame_index}"
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    return np.random.RandomState(np.frombuffer(digest, np.uint32))


def embed_sequence(
    model: "PointTrackNet", reader: FrameReader, detections: Detections, config: EmbedConfig
) -> Detections:
    """The detections of one sequence with embeddings; a frame without an image has zeros."""
    masks = masks_of(detections, f"sequence {reader.part.name!r}")
    embeddings = np.zeros((len(detections), model.config.embedding_dim), np.float32)
    for frame in _frames(reader):
        rows = detections.rows(frame.frame_index)
        if rows.start == rows.stop or not frame.image:
            continue
        rng = frame_random(config.seed, reader.part.name, frame.frame_index)
        embeddings[rows] = embed_frame(model, frame.decode(), masks[rows], rng)
    return Detections(
        frame_offsets=detections.frame_offsets,
        boxes_xyxy=detections.boxes_xyxy,
        scores=detections.scores,
        class_indices=detections.class_indices,
        embeddings=embeddings,
        masks=masks,
    )


class _Segmenter:
    """Holds the segmentation of one worker."""

    def __init__(
        self, weights: Artefact, config: SegmentConfig, benchmark: str, device: str
    ) -> None:
        from models.pointtrack.segmentation import SpatialEmbedding

        _set_threads(device)
        self._model = load_network(weights, SpatialEmbedding, device)
        self._class_index = BENCHMARKS[benchmark].class_index(self._model.config.class_name)
        self._config = config

    def __call__(self, part: Part) -> Detections:
        nothing = FrameMasks(masks=(), scores=np.zeros(0, np.float32))
        found = [
            segment_image(self._model, frame.decode(), self._config) if frame.image else nothing
            for frame in _frames(FrameReader(part))
        ]
        return join_masks(found, self._class_index)


class _Truth:
    def __init__(self, class_index: int) -> None:
        self._class_index = class_index

    def __call__(self, part: Part) -> Detections:
        annotations = read_annotations(part)
        chosen = annotations.select(is_instance(annotations, self._class_index))
        masks = masks_of(chosen, f"the truth of sequence {part.name!r}")
        edges = np.searchsorted(chosen.frame_index, np.arange(FrameReader(part).num_frames + 1))
        found = [
            FrameMasks(masks=masks[start:stop], scores=np.ones(stop - start, np.float32))
            for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
        return join_masks(found, self._class_index)


class _Embedder:
    """Holds the association network of one worker."""

    def __init__(
        self, weights: Artefact, detections: Artefact, config: EmbedConfig, device: str
    ) -> None:
        from models.pointtrack.network import PointTrackNet

        _set_threads(device)
        self._model = load_network(weights, PointTrackNet, device)
        self._detections = detections
        self._config = config

    def __call__(self, part: Part) -> Detections:
        detections = read_detections(self._detections.part(part.name))
        return embed_sequence(self._model, FrameReader(part), detections, self._config)


class _Write:
    """What a worker does with a sequence: make its detections, and store them."""

    def __init__(self, artefact: Artefact, build: Callable[[], Callable[[Part], Detections]]):
        self._artefact = artefact
        self._make = build()

    def __call__(self, part: Part) -> None:
        detections = self._make(part)
        with self._artefact.part(part.name).write() as writer:
            writer.write_arrow(DETECTIONS_FILE, detections.to_table())
            writer.details = {
                "num_frames": detections.num_frames,
                "num_detections": len(detections),
            }


def join_masks(found: list[FrameMasks], class_index: int) -> Detections:
    """The frames of one sequence in order, as detections of one class without embeddings."""
    masks = tuple(mask for frame in found for mask in frame.masks)
    scores = [frame.scores for frame in found]
    return Detections(
        frame_offsets=np.cumsum([0, *map(len, scores)], dtype=np.int64),
        boxes_xyxy=mask_boxes(masks).astype(np.float32),
        scores=np.concatenate([np.zeros(0, np.float32), *scores]),
        class_indices=np.full(len(masks), class_index, np.int16),
        embeddings=np.zeros((len(masks), 0), np.float32),
        masks=masks,
    )


def _truth_settings(class_name: str) -> dict[str, Any]:
    return {"truth": class_name}


def _embed_settings(detections: Artefact, weights: Artefact, config: EmbedConfig) -> dict[str, Any]:
    inputs = {"detections": detections.fingerprint, "weights": weights.fingerprint}
    return {"embed": config_to_dict(config), **inputs}


def _place(frames: Artefact, settings: dict[str, Any]) -> Artefact:
    return Artefact(
        root=frames.root,
        stage=STAGE,
        dataset=frames.dataset,
        split=frames.split,
        fingerprint=fingerprint(STAGE, VERSION, settings, [frames.fingerprint]),
    )


def _detect(
    frames: Artefact,
    settings: dict[str, Any],
    build: Callable[[], Callable[[Part], Detections]],
    *,
    label: str,
    num_workers: int,
    num_gpus: float,
) -> Artefact:
    artefact = _place(frames, settings)
    if artefact.is_complete():
        return artefact
    sequences = frames.sequences()
    map_sequences_with(
        partial(_Write, artefact, build),
        {name: frames.part(name) for name in artefact.missing(sequences)},
        num_workers=num_workers,
        label=f"{label} {frames.dataset}/{frames.split}",
        num_gpus=num_gpus,
    )
    counts = [artefact.part(name).details()["num_detections"] for name in sequences]
    details = {"frames": frames.fingerprint, **settings, "num_detections": sum(counts)}
    artefact.finish(sequences, details)
    return artefact


def _set_threads(device: str) -> None:
    """One thread on a CPU, which fixes the order in which numbers are added."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)


def _instance_map(masks: tuple[Rle, ...], size: tuple[int, ...]) -> npt.NDArray[np.int32]:
    instances = np.zeros(size, np.int32)
    for number, mask in enumerate(masks, start=1):
        if tuple(mask["size"]) != tuple(size):
            raise ValueError(
                f"mask {number - 1} is of an image of {mask['size']} pixels (height, width), but "
                f"this one has {list(size)}"
            )
        instances[decode_mask(mask)] = number
    if len(np.unique(instances)) - bool((instances == 0).any()) != len(masks):
        raise ValueError("a mask has no pixel, or is covered by others; expected disjoint masks")
    return instances


def _frames(reader: FrameReader) -> Iterator[Frame]:
    for group in reader.iterate():
        yield from group


def _first(value: float | None, default: float) -> float:
    return default if value is None else value
