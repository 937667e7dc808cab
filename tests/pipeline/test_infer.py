"""Detections and embeddings of stored frames: what they are, and on what they must not depend."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.images import decode_image
from datasets.schema import Annotations, Detections
from datasets.transforms import resize_keep_ratio
from models.preprocess import normalise_batch
from models.qdtrack.config import InputConfig, QDTrackConfig
from models.qdtrack.model import QDTrack
from models.weights import save_weights
from pipeline.associate import DETECTIONS_FILE, read_detections
from pipeline.frames import ANNOTATIONS_FILE, Frame, FrameReader, read_annotations, write_frames
from pipeline.infer import InferConfig, detect_images, infer, map_classes, usable_truth
from pipeline.model_store import adopt_weights, load_model
from pipeline.parallel import SequenceError
from pipeline.store import Artefact
from tests.small_model import MODEL
from tests.training_scene import write_frames_artefact

# Half as large again as the stored frames, so that boxes have to be scaled back.
ENLARGED = replace(MODEL, input=InputConfig(long_side=144, short_side=96))
CONFIG = InferConfig(batch_size=3)
SEQUENCE = "val-1"


def store_model(root: Path, config: QDTrackConfig = ENLARGED, seed: int = 0) -> Artefact:
    """Weights that were never trained, in the store."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        path = root / f"{seed}.safetensors"
        save_weights(path, QDTrack(config))
    return adopt_weights(path, str(root), "bdd100k")


@pytest.fixture
def frames(tmp_path: Path) -> Artefact:
    """Three sequences of seven frames."""
    return write_frames_artefact(tmp_path, split="val")


@pytest.fixture
def weights(tmp_path: Path) -> Artefact:
    return store_model(tmp_path)


def edit(
    artefact: Artefact,
    *,
    frame: Callable[[Frame], Frame] = lambda frame: frame,
    annotations: Callable[[Annotations], Annotations] = lambda annotations: annotations,
) -> None:
    """Write one sequence anew with something changed."""
    part = artefact.part(SEQUENCE)
    old, truth, details = FrameReader(part).read(0, 99), read_annotations(part), part.details()
    shutil.rmtree(part.folder)
    with part.write() as writer:
        write_frames(writer, SEQUENCE, [frame(one) for one in old])
        writer.write_parquet(ANNOTATIONS_FILE, annotations(truth).to_table(SEQUENCE))
        writer.details = details


def files(artefact: Artefact) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every detections file."""
    paths = [Path(artefact.part(name).location(DETECTIONS_FILE)) for name in artefact.sequences()]
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


def contents(artefact: Artefact) -> list[bytes]:
    return [content for content, _ in files(artefact).values()]


def assert_close(one: Detections, other: Detections, atol: float = 1e-4) -> None:
    assert one.frame_offsets.tolist() == other.frame_offsets.tolist()
    assert one.class_indices.tolist() == other.class_indices.tolist()
    for name in ("boxes_xyxy", "scores", "embeddings"):
        assert np.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=atol), name


class TestDetections:
    def test_they_are_those_of_the_network_in_original_pixels(
        self, frames: Artefact, weights: Artefact
    ) -> None:
        artefact = infer(frames, weights, InferConfig(batch_size=1))
        detections = read_detections(artefact.part(SEQUENCE))
        assert detections.num_frames == 7
        assert detections.embeddings.dtype == np.float32
        assert detections.embeddings.shape == (len(detections), 16)
        assert detections.boxes_xyxy.min() >= 0
        assert (detections.boxes_xyxy.max(axis=0) <= [96, 64, 96, 64]).all()

        model = load_model(weights)
        frame = FrameReader(frames.part(SEQUENCE)).read(4, 5)[0]
        image, scale = resize_keep_ratio(decode_image(frame.image), long_side=144, short_side=96)
        assert scale.tolist() == [1.5, 1.5]
        (direct,) = model.detect(*normalise_batch([image], model.config.input))
        rows = detections.rows(4)
        assert rows.stop - rows.start == len(direct.scores) > 0
        boxes = direct.boxes_xyxy.numpy() / 1.5
        assert np.allclose(detections.boxes_xyxy[rows], boxes, rtol=0, atol=1e-3)
        assert np.allclose(detections.scores[rows], direct.scores.numpy(), rtol=0, atol=1e-5)
        assert np.allclose(detections.embeddings[rows], direct.embeddings, rtol=0, atol=1e-3)
        # The model's classes 0 and 1 are the benchmark's car and bus.
        expected = np.array([2, 4])[direct.class_indices.numpy()]
        assert detections.class_indices[rows].tolist() == expected.tolist()

    def test_what_the_artefact_says_of_them(self, frames: Artefact, weights: Artefact) -> None:
        artefact = infer(frames, weights, CONFIG)
        assert artefact.sequences() == ["val-0", "val-1", "val-2"]
        counts = [len(read_detections(artefact.part(name))) for name in artefact.sequences()]
        details = artefact.details()
        assert details["num_detections"] == sum(counts) > 0
        assert details["frames"] == frames.fingerprint
        assert details["weights"] == weights.fingerprint
        assert (details["boxes"], details["infer"]["batch_size"]) == ("detector", 3)
        part = artefact.part(SEQUENCE).details()
        assert part == {"num_frames": 7, "num_detections": counts[1]}

    @pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
    def test_the_batch_size_does_not_move_boxes(
        self, frames: Artefact, weights: Artefact, batch_size: int
    ) -> None:
        usual = infer(frames, weights, CONFIG)
        other = infer(frames, weights, InferConfig(batch_size=batch_size))
        assert other.fingerprint != usual.fingerprint
        for name in frames.sequences():
            assert_close(read_detections(other.part(name)), read_detections(usual.part(name)))

    def test_frames_without_an_image_give_none(self, frames: Artefact, weights: Artefact) -> None:
        whole = read_detections(infer(frames, weights, CONFIG).part(SEQUENCE))
        gone = {0, 1, 4}
        edit(
            frames,
            frame=lambda one: replace(one, image=b"") if one.frame_index in gone else one,
        )
        again = replace(frames, fingerprint="e" * 16)
        Path(frames.folder).rename(again.folder)
        found = read_detections(infer(again, weights, CONFIG).part(SEQUENCE))
        assert found.num_frames == 7
        counts = np.diff(whole.frame_offsets)
        assert counts.min() > 0
        counts[list(gone)] = 0
        assert np.diff(found.frame_offsets).tolist() == counts.tolist()
        for index in set(range(7)) - gone:
            boxes = whole.boxes_xyxy[whole.rows(index)]
            assert np.allclose(found.boxes_xyxy[found.rows(index)], boxes, rtol=0, atol=1e-4)

    def test_a_sequence_without_any_image_has_no_detections(
        self, frames: Artefact, weights: Artefact
    ) -> None:
        edit(frames, frame=lambda one: replace(one, image=b""))
        for boxes in ("detector", "truth"):
            found = read_detections(infer(frames, weights, CONFIG, boxes=boxes).part(SEQUENCE))
            assert (found.num_frames, len(found)) == (7, 0)
            assert found.embeddings.shape == (0, 16)

    def test_a_frame_that_does_not_decode_is_named(
        self, frames: Artefact, weights: Artefact
    ) -> None:
        edit(
            frames,
            frame=lambda one: replace(one, image=one.image[:300]) if one.frame_index == 5 else one,
        )
        with pytest.raises(SequenceError, match=r"^frame 5 \(val-1-5.jpg\): a JPEG"):
            infer(frames, weights, CONFIG)
        done = infer_folder(frames)
        assert not (done / "manifest.json").exists()
        assert not (done / "parts" / SEQUENCE / "manifest.json").exists()
        assert (done / "parts" / "val-0" / "manifest.json").exists()

    def test_no_images_give_no_results(self, weights: Artefact) -> None:
        assert detect_images(load_model(weights), [], np.array([0, 1], np.int16)) == []

    def test_half_embeddings_are_the_rounded_ones(
        self, frames: Artefact, weights: Artefact
    ) -> None:
        full = read_detections(infer(frames, weights, CONFIG).part(SEQUENCE))
        halved = infer(frames, weights, replace(CONFIG, half_embeddings=True))
        half = read_detections(halved.part(SEQUENCE))
        assert half.embeddings.dtype == np.float16
        assert np.array_equal(half.embeddings, full.embeddings.astype(np.float16))
        assert np.array_equal(half.boxes_xyxy, full.boxes_xyxy)

    def test_a_batch_needs_a_frame(self) -> None:
        with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
            InferConfig(batch_size=0)


def infer_folder(frames: Artefact) -> Path:
    """The one detections artefact beside some frames."""
    (folder,) = (Path(frames.root) / "detections" / frames.dataset / frames.split).iterdir()
    return folder


class TestClasses:
    def test_they_are_matched_by_name(self) -> None:
        assert map_classes(["bus", "boat", "car"], ["car", "bus", "train"]).tolist() == [1, -1, 0]

    def test_no_class_in_common_is_an_error(self, frames: Artefact, tmp_path: Path) -> None:
        foreign = store_model(tmp_path, replace(ENLARGED, classes=("boat", "plane")))
        with pytest.raises(ValueError, match=r"the model knows boat, plane, .* no class in common"):
            infer(frames, foreign, CONFIG)

    def test_classes_that_the_benchmark_lacks_are_dropped(
        self, frames: Artefact, weights: Artefact, tmp_path: Path
    ) -> None:
        both = read_detections(infer(frames, weights, CONFIG).part(SEQUENCE))
        # The same network, its first class under a name that nobody scores.
        renamed = store_model(tmp_path, replace(ENLARGED, classes=("boat", "bus")))
        buses = read_detections(infer(frames, renamed, CONFIG).part(SEQUENCE))
        kept = both.class_indices == 4
        assert 0 < kept.sum() < len(both)
        assert np.array_equal(buses.boxes_xyxy, both.boxes_xyxy[kept])
        assert set(buses.class_indices.tolist()) == {4}


class TestResuming:
    def test_a_second_run_touches_nothing(self, frames: Artefact, weights: Artefact) -> None:
        before = files(infer(frames, weights, CONFIG))
        assert files(infer(frames, weights, CONFIG)) == before

    @pytest.mark.parametrize("damage", ["deleted", "cut short"])
    def test_only_what_is_missing_is_done_again(
        self, frames: Artefact, weights: Artefact, damage: str
    ) -> None:
        artefact = infer(frames, weights, CONFIG)
        before = files(artefact)
        os.unlink(f"{artefact.folder}/manifest.json")
        lost = Path(artefact.part(SEQUENCE).location(DETECTIONS_FILE))
        if damage == "deleted":
            shutil.rmtree(lost.parent)
        else:
            lost.write_bytes(lost.read_bytes()[:-9])
        after = files(infer(frames, weights, CONFIG))
        assert after[str(lost)][0] == before[str(lost)][0]
        assert after[str(lost)][1] > before[str(lost)][1]
        del after[str(lost)], before[str(lost)]
        assert after == before

    def test_other_weights_and_other_boxes_are_other_artefacts(
        self, frames: Artefact, weights: Artefact, tmp_path: Path
    ) -> None:
        artefacts = [
            infer(frames, weights, CONFIG),
            infer(frames, store_model(tmp_path, seed=1), CONFIG),
            infer(frames, weights, CONFIG, boxes="truth"),
        ]
        assert len({artefact.fingerprint for artefact in artefacts}) == 3


class TestTrueBoxes:
    def test_rows_are_those_that_a_tracker_should_find(
        self, frames: Artefact, weights: Artefact
    ) -> None:
        def spoil(truth: Annotations) -> Annotations:
            """Rows: three a frame. Ignored, crowd, unmapped, and a frame without any."""
            truth.ignored[0] = True
            truth.crowd[4] = True
            mapped = truth.class_index.copy()
            mapped[8] = -1
            return replace(truth, class_index=mapped).select(truth.frame_index != 5)

        edit(frames, annotations=spoil)
        truth = usable_truth(read_annotations(frames.part(SEQUENCE)))
        assert len(truth) == 7 * 3 - 3 - 3
        found = read_detections(infer(frames, weights, CONFIG, boxes="truth").part(SEQUENCE))
        assert np.diff(found.frame_offsets).tolist() == [2, 2, 2, 3, 3, 0, 3]
        assert np.array_equal(found.frame_index(), truth.frame_index)
        assert np.array_equal(found.boxes_xyxy, truth.boxes_xyxy.astype(np.float32))
        assert np.array_equal(found.class_indices, truth.class_index)
        assert found.scores.tolist() == [1.0] * len(truth)

    def test_embeddings_are_read_where_the_boxes_lie_in_the_input(
        self, frames: Artefact, weights: Artefact
    ) -> None:
        found = read_detections(infer(frames, weights, CONFIG, boxes="truth").part(SEQUENCE))
        model = load_model(weights)
        frame = FrameReader(frames.part(SEQUENCE)).read(6, 7)[0]
        image, _ = resize_keep_ratio(decode_image(frame.image), long_side=144, short_side=96)
        truth = read_annotations(frames.part(SEQUENCE))
        boxes = torch.from_numpy(truth.boxes_xyxy[truth.frame_index == 6] * 1.5).float()
        batch, _ = normalise_batch([image], model.config.input)
        (expected,) = model.embed(batch, [boxes])
        assert np.allclose(found.embeddings[found.rows(6)], expected, rtol=0, atol=1e-4)
        (unscaled,) = model.embed(batch, [boxes / 1.5])
        assert not np.allclose(found.embeddings[found.rows(6)], unscaled, rtol=0, atol=1e-3)

    def test_classes_of_the_model_do_not_matter(self, frames: Artefact, tmp_path: Path) -> None:
        """A box is embedded whatever its class: here the model has never heard of buses."""
        some = store_model(tmp_path, replace(ENLARGED, classes=("car", "boat")))
        found = read_detections(infer(frames, some, CONFIG, boxes="truth").part(SEQUENCE))
        assert sorted(set(found.class_indices.tolist())) == [2, 4]

    def test_frames_without_an_image_give_none(self, frames: Artefact, weights: Artefact) -> None:
        edit(frames, frame=lambda one: replace(one, image=b"") if one.frame_index == 2 else one)
        found = read_detections(infer(frames, weights, CONFIG, boxes="truth").part(SEQUENCE))
        assert np.diff(found.frame_offsets).tolist() == [3, 3, 0, 3, 3, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("boxes", ["detector", "truth"])
def test_two_workers_write_the_same_bytes_as_one(
    ray_session: None, frames: Artefact, weights: Artefact, boxes: str
) -> None:
    one = infer(frames, weights, CONFIG, boxes=boxes)
    before = contents(one)
    shutil.rmtree(one.folder)
    two = infer(frames, weights, CONFIG, boxes=boxes, num_workers=2)
    assert two == one
    assert contents(two) == before
