"""Masks and their embeddings: what they are, in which colours, and on what they must not depend."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.masks import decode_mask, encode_mask, mask_areas, mask_boxes
from datasets.schema import Detections
from models.pointtrack.clustering import cluster_with_scores
from models.pointtrack.config import PointTrackConfig, SpatialEmbeddingConfig
from models.pointtrack.coordinates import coordinate_map
from models.pointtrack.points import frame_points
from pipeline.associate import DETECTIONS_FILE, read_detections
from pipeline.frames import FrameReader
from pipeline.model_store import load_network
from pipeline.parallel import SequenceError
from pipeline.segment import (
    EmbedConfig,
    FrameMasks,
    SegmentConfig,
    embed_frame,
    embed_masks,
    embed_sequence,
    frame_random,
    join_masks,
    segment,
    segment_image,
    take_truth,
)
from pipeline.store import Artefact
from tests.point_scene import (
    EMBEDDER,
    HEIGHT,
    SCENES,
    WIDTH,
    make_embedder,
    make_segmenter,
    map_of,
    picture,
    store_network,
    write_scenes,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames that no test changes."""
    root = tmp_path_factory.mktemp("kept")
    write_scenes(root)
    return root


@pytest.fixture
def frames(kept: Path, tmp_path: Path) -> Artefact:
    shutil.copytree(kept, tmp_path / "root")
    return Artefact(
        root=str(tmp_path / "root"),
        stage="frames",
        dataset="kitti",
        split="train",
        fingerprint="f" * 16,
    )


@pytest.fixture
def segmenter(frames: Artefact, tmp_path: Path) -> Artefact:
    return store_network(Path(frames.root), make_segmenter(), "segmenter")


@pytest.fixture
def embedder(frames: Artefact) -> Artefact:
    return store_network(Path(frames.root), make_embedder(), "embedder")


def files(artefact: Artefact) -> dict[str, tuple[bytes, int]]:
    paths = [Path(artefact.part(name).location(DETECTIONS_FILE)) for name in artefact.sequences()]
    return {p.parent.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


def contents(artefact: Artefact) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files(artefact).items()}


class Painted(nn.Module):
    """In place of the network: reads objects off the picture's colours.

    Red says which object a pixel belongs to (red // 10, 0 is none), green how sure its seed is, and
    blue how many pixels the object reaches from its centre: only its own pixels lie on that.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SpatialEmbeddingConfig(**{"seed_threshold": 0.8, "min_pixels": 10, **config})
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        assert images.max() <= 1
        [(red, green, blue)] = images
        ids = (red * 25.5 + 1e-3).floor().long()
        height, width = ids.shape
        places = coordinate_map(height, width, device=torch.device("cpu"))
        prediction = torch.zeros(1, 5, height, width)
        for number in ids.unique()[1:].tolist():
            mask = ids == number
            centre = places[:, mask].mean(dim=1, keepdim=True)
            prediction[0, :2, mask] = (centre - places[:, mask]).atanh()
        radius = (blue * 255 + 1) / 1023
        prediction[0, 2:4] = (0.693 / radius**2).log() / 10
        prediction[0, 4] = torch.where(ids > 0, torch.logit(green.clamp(0.01, 0.99)), -9.0)
        return prediction


def paint(
    *blocks: tuple[int, int, tuple[slice, slice]], radii: dict[int, int] | None = None
) -> np.ndarray[Any, Any]:
    """A picture for `Painted` of (number, green, where)."""
    image = np.zeros((24, 40, 3), np.uint8)
    for number, green, where in blocks:
        image[where] = (10 * number, green, (radii or {}).get(number, 0))
    return image


LEFT, RIGHT, LOW = np.s_[2:8, 2:10], np.s_[2:12, 20:36], np.s_[14:22, 4:12]


class TestSegmentImage:
    def test_instances_come_in_the_order_of_their_seeds(self) -> None:
        image = paint((1, 220, LEFT), (2, 250, RIGHT), (3, 235, LOW))
        found = segment_image(Painted(), image, SegmentConfig())  # type: ignore[arg-type]
        assert len(found.masks) == 3
        for mask, where in zip(found.masks, (RIGHT, LOW, LEFT), strict=True):
            expected = np.zeros((24, 40), bool)
            expected[where] = True
            assert np.array_equal(decode_mask(mask), expected)
        assert found.scores.dtype == np.float32
        assert found.scores.tolist() == pytest.approx([250 / 255, 235 / 255, 220 / 255], abs=1e-4)

    def test_one_that_others_took_over_is_gone(self) -> None:
        """The last in order reaches over the whole image; its own pixels are more than half."""
        image = paint((1, 250, LEFT), (2, 240, RIGHT), (3, 245, LOW), radii={2: 200})
        found = segment_image(Painted(), image, SegmentConfig())  # type: ignore[arg-type]
        assert mask_areas(found.masks).tolist() == [48 + 160 + 64]
        assert found.scores.tolist() == pytest.approx([240 / 255], abs=1e-4)

    def test_those_that_are_left_keep_their_order_and_scores(self) -> None:
        """The second of three is taken over by the third, which reaches no further."""
        image = paint((1, 250, RIGHT), (2, 245, LEFT), (3, 240, LOW), radii={3: 15})
        found = segment_image(Painted(), image, SegmentConfig())  # type: ignore[arg-type]
        assert mask_areas(found.masks).tolist() == [160, 48 + 64]
        assert found.scores.tolist() == pytest.approx([250 / 255, 240 / 255], abs=1e-4)

    def test_nothing_is_a_frame_without_masks(self) -> None:
        found = segment_image(Painted(), paint(), SegmentConfig())  # type: ignore[arg-type]
        assert found.masks == ()
        assert found.scores.shape == (0,)
        assert found.scores.dtype == np.float32

    def test_thresholds_of_the_config_come_before_those_of_the_weights(self) -> None:
        image = paint((1, 220, LEFT), (2, 250, RIGHT))
        cases = [
            (SegmentConfig(), [160, 48]),
            (SegmentConfig(seed_threshold=0.9), [160]),
            (SegmentConfig(min_pixels=48), [160]),  # more than that many
            (SegmentConfig(min_pixels=47), [160, 48]),
            (SegmentConfig(seed_threshold=0.0, min_pixels=0), [160, 48]),
        ]
        for config, areas in cases:
            found = segment_image(Painted(), image, config)  # type: ignore[arg-type]
            assert mask_areas(found.masks).tolist() == areas, config
        strict = Painted(seed_threshold=0.9)
        found = segment_image(strict, image, SegmentConfig())  # type: ignore[arg-type]
        assert mask_areas(found.masks).tolist() == [160]

    def test_it_sees_red_green_blue(self) -> None:
        image = paint((1, 220, LEFT), (2, 250, RIGHT))
        found = segment_image(Painted(), image[..., ::-1], SegmentConfig())  # type: ignore[arg-type]
        assert found.masks == ()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed_threshold": 1.5}, "seed_threshold is 1.5, expected a share between 0 and 1"),
            ({"min_pixels": -1}, "min_pixels is -1, expected at least 0"),
        ],
    )
    def test_thresholds_that_cannot_be(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SegmentConfig(**changes)


class TestSegment:
    def test_masks_are_those_of_the_network_on_rgb(
        self, frames: Artefact, segmenter: Artefact
    ) -> None:
        artefact = segment(frames, segmenter, SegmentConfig())
        model = make_segmenter()
        for name, scene in SCENES.items():
            found = read_detections(artefact.part(name))
            assert found.num_frames == len(scene)
            assert found.embeddings.shape == (len(found), 0)
            assert set(found.class_indices.tolist()) == {0}
            for frame in range(len(scene)):
                pixels = torch.from_numpy(picture(name, frame)).permute(2, 0, 1)[None] / 255
                rows = found.rows(frame)
                for order, is_same in ((pixels, True), (pixels.flip(1), False)):
                    expected = cluster_with_scores(
                        model.predict(order)[0], seed_threshold=0.5, min_pixels=20
                    )
                    ids = np.unique(expected.instances)[1:]
                    scores = expected.scores[ids - 1]
                    assert len(ids) > 5
                    assert np.array_equal(found.scores[rows], scores) == is_same
                    if is_same:
                        masks = [encode_mask(expected.instances == i) for i in ids.tolist()]
                        assert list(found.masks[rows]) == masks
                        boxes = mask_boxes(masks).astype(np.float32)
                        assert np.array_equal(found.boxes_xyxy[rows], boxes)

    def test_what_the_artefact_says(self, frames: Artefact, segmenter: Artefact) -> None:
        artefact = segment(frames, segmenter, SegmentConfig(min_pixels=30))
        assert (artefact.stage, artefact.dataset, artefact.split) == (
            "detections",
            "kitti",
            "train",
        )
        details = artefact.details()
        counts = {n: len(read_detections(artefact.part(n))) for n in artefact.sequences()}
        assert list(counts) == list(SCENES)
        assert details["num_detections"] == sum(counts.values()) > 0
        assert details["frames"] == frames.fingerprint
        assert details["weights"] == segmenter.fingerprint
        assert details["segment"] == {"seed_threshold": None, "min_pixels": 30}
        assert artefact.part("0001").details() == {
            "num_frames": 4,
            "num_detections": counts["0001"],
        }

    def test_the_class_is_found_by_its_name(self, frames: Artefact) -> None:
        weights = store_network(
            Path(frames.root), make_segmenter(class_name="pedestrian"), "pedestrian"
        )
        found = read_detections(segment(frames, weights, SegmentConfig()).part("0000"))
        assert set(found.class_indices.tolist()) == {1}

    def test_a_class_that_the_benchmark_lacks(self, frames: Artefact) -> None:
        weights = store_network(Path(frames.root), make_segmenter(class_name="tram"), "tram")
        message = "kitti_mots has no class 'tram', expected one of car, pedestrian"
        with pytest.raises(ValueError, match=message):
            segment(frames, weights, SegmentConfig())
        with pytest.raises(ValueError, match=message):
            take_truth(frames, "tram")

    def test_a_frame_without_an_image_has_no_masks(self, tmp_path: Path) -> None:
        frames = write_scenes(tmp_path, broken={"0000": [0, 3]})
        weights = store_network(tmp_path, make_segmenter(), "segmenter")
        artefact = segment(frames, weights, SegmentConfig())
        counts = np.diff(read_detections(artefact.part("0000")).frame_offsets)
        assert [bool(count) for count in counts] == [False, True, True, False, True]

    def test_a_frame_that_does_not_decode_is_named(
        self, frames: Artefact, segmenter: Artefact
    ) -> None:
        from pipeline.frames import ANNOTATIONS_FILE, read_annotations, write_frames

        part = frames.part("0001")
        stored, truth, details = (
            FrameReader(part).read(0, 9),
            read_annotations(part),
            part.details(),
        )
        stored[2] = replace(stored[2], image=stored[2].image[:60])
        with part.write() as writer:
            write_frames(writer, "0001", stored)
            writer.write_parquet(ANNOTATIONS_FILE, truth.to_table("0001"))
            writer.details = details
        with pytest.raises(SequenceError, match=r"frame 2 \(000002.png\): "):
            segment(frames, segmenter, SegmentConfig())

    def test_weights_of_another_network_are_refused(
        self, frames: Artefact, segmenter: Artefact, embedder: Artefact
    ) -> None:
        with pytest.raises(ValueError, match="'pointtrack', expected those of 'spatial_embedding'"):
            segment(frames, embedder, SegmentConfig())
        truth = take_truth(frames, "car")
        with pytest.raises(ValueError, match="'spatial_embedding', expected those of 'pointtrack'"):
            embed_masks(frames, truth, segmenter, EmbedConfig())


class TestTruth:
    def test_masks_of_the_class_without_ignore_regions(self, frames: Artefact) -> None:
        for class_index, class_name in enumerate(("car", "pedestrian")):
            artefact = take_truth(frames, class_name)
            for name, scene in SCENES.items():
                found = read_detections(artefact.part(name))
                expected = [
                    encode_mask(map_of(blocks) == value)
                    for blocks in scene
                    for value in blocks
                    if value // 1000 == class_index + 1
                ]
                counts = [
                    sum(value // 1000 == class_index + 1 for value in blocks) for blocks in scene
                ]
                assert list(found.masks or ()) == expected
                assert np.diff(found.frame_offsets).tolist() == counts
                assert found.scores.tolist() == [1.0] * len(expected)
                assert set(found.class_indices.tolist()) <= {class_index}

    def test_a_sequence_without_any_object_is_empty(self, frames: Artefact) -> None:
        found = read_detections(take_truth(frames, "car").part("0003"))
        assert (found.num_frames, len(found)) == (2, 0)


class TestJoin:
    def test_frames_follow_each_other_and_keep_their_rows(self) -> None:
        one, two, three = (map_of({1001: (0, 9, 4 * i, 4 * i + 8)}) > 0 for i in range(3))
        found = [
            FrameMasks(masks=(), scores=np.zeros(0, np.float32)),
            FrameMasks(
                masks=(encode_mask(two), encode_mask(one)),
                scores=np.array([0.5, 0.75], np.float32),
            ),
            FrameMasks(masks=(encode_mask(three),), scores=np.array([1], np.float32)),
            FrameMasks(masks=(), scores=np.zeros(0, np.float32)),
        ]
        joined = join_masks(found, 1)
        assert joined.frame_offsets.tolist() == [0, 0, 2, 3, 3]
        assert joined.scores.tolist() == [0.5, 0.75, 1.0]
        assert joined.class_indices.tolist() == [1, 1, 1]
        assert joined.boxes_xyxy.tolist() == [[4, 0, 12, 9], [0, 0, 8, 9], [8, 0, 16, 9]]
        assert joined.embeddings.shape == (3, 0)

    @pytest.mark.parametrize("num_frames", [0, 3])
    def test_nothing_can_be_stored(self, num_frames: int) -> None:
        empty = FrameMasks(masks=(), scores=np.zeros(0, np.float32))
        joined = join_masks([empty] * num_frames, 0)
        assert (joined.num_frames, len(joined)) == (num_frames, 0)
        back = Detections.from_table(joined.to_table(), where="here")
        assert (back.num_frames, len(back)) == (num_frames, 0)


class TestEmbedFrame:
    IMAGE = picture("0000", 1)
    MASKS = tuple(encode_mask(map_of(SCENES["0000"][1]) == v) for v in (1002, 1001))

    def test_points_have_their_colours_as_bgr(self) -> None:
        model = make_embedder()
        found = embed_frame(model, self.IMAGE, self.MASKS, np.random.RandomState(3))
        assert found.shape == (2, 4)
        assert found.dtype == np.float32
        instances = np.zeros((HEIGHT, WIDTH), np.int32)
        for number, mask in enumerate(self.MASKS, 1):
            instances[decode_mask(mask)] = number
        for image, is_same in ((self.IMAGE[..., ::-1], True), (self.IMAGE, False)):
            inputs = frame_points(
                np.ascontiguousarray(image),
                instances,
                np.random.RandomState(3),
                num_points=12,
                num_environment_points=6,
            )
            with torch.inference_mode():
                expected = model(*map(torch.from_numpy, inputs)).numpy()
            assert np.array_equal(found, expected) == is_same

    def test_rows_are_those_of_the_masks(self) -> None:
        """Another order of the same masks is the same rows in that order, but for the draws."""
        config = replace(EMBEDDER, num_points=600, num_environment_points=300)
        model = make_embedder(config=config)
        forward, backward = (
            embed_frame(model, self.IMAGE, masks, np.random.RandomState(0))
            for masks in (self.MASKS, self.MASKS[::-1])
        )
        apart = np.abs(forward - backward).max()
        assert np.abs(forward - backward[::-1]).max() < 0.2 * apart

    def test_no_masks_are_no_rows_and_no_draws(self) -> None:
        rng = np.random.RandomState(0)
        found = embed_frame(make_embedder(), self.IMAGE, (), rng)
        assert found.shape == (0, 4)
        assert rng.randint(10**9) == np.random.RandomState(0).randint(10**9)

    def test_where_masks_overlap_the_later_one_counts(self) -> None:
        first, second = np.zeros((2, HEIGHT, WIDTH), bool)
        first[4:20, 4:20], second[10:30, 10:30] = True, True
        both = (encode_mask(first), encode_mask(second))
        disjoint = (encode_mask(first & ~second), encode_mask(second))
        model = make_embedder()
        found, expected = (
            embed_frame(model, self.IMAGE, masks, np.random.RandomState(0))
            for masks in (both, disjoint)
        )
        # Positions are those of the masks' own pixels, which the overlap does not change here.
        assert np.array_equal(found, expected)

    def test_masks_without_a_pixel_of_their_own_are_refused(self) -> None:
        empty = encode_mask(np.zeros((HEIGHT, WIDTH), bool))
        everything = encode_mask(np.ones((HEIGHT, WIDTH), bool))
        for masks in ((self.MASKS[0], empty), (self.MASKS[0], everything)):
            with pytest.raises(ValueError, match="has no pixel, or is covered by others"):
                embed_frame(make_embedder(), self.IMAGE, masks, np.random.RandomState(0))
        found = embed_frame(make_embedder(), self.IMAGE, (everything,), np.random.RandomState(0))
        assert np.isfinite(found).all()

    def test_a_mask_of_another_image_is_refused(self) -> None:
        other = encode_mask(np.ones((WIDTH, HEIGHT), bool))
        with pytest.raises(
            ValueError, match=r"mask 1 is of an image of \[56, 40\] pixels .* \[40, 56\]"
        ):
            embed_frame(
                make_embedder(), self.IMAGE, (self.MASKS[0], other), np.random.RandomState(0)
            )


class TestSeeds:
    def test_every_frame_has_its_own(self) -> None:
        places = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a 1", 0), (0, "a", 10)]
        drawn = {place: frame_random(*place).randint(2**31) for place in places}
        assert len(set(drawn.values())) == len(places)
        assert drawn == {place: frame_random(*place).randint(2**31) for place in places}

    def test_other_frames_do_not_matter(self, frames: Artefact, tmp_path: Path) -> None:
        """Masks taken away from other frames, and images that are gone, leave the rest as it is."""
        model, config = make_embedder(), EmbedConfig(seed=4)
        whole = read_detections(take_truth(frames, "car").part("0000"))
        reader = FrameReader(frames.part("0000"))
        found = embed_sequence(model, reader, whole, config)
        kept = whole.frame_index() >= 3
        few = Detections(
            frame_offsets=np.maximum(whole.frame_offsets - (~kept).sum(), 0),
            boxes_xyxy=whole.boxes_xyxy[kept],
            scores=whole.scores[kept],
            class_indices=whole.class_indices[kept],
            embeddings=whole.embeddings[kept],
            masks=tuple(m for m, k in zip(whole.masks or (), kept, strict=True) if k),
        )
        again = embed_sequence(model, reader, few, config)
        assert np.array_equal(again.embeddings, found.embeddings[kept])
        broken = write_scenes(tmp_path / "other", broken={"0000": [1]})
        found_there = embed_sequence(model, FrameReader(broken.part("0000")), whole, config)
        is_gone = whole.frame_index() == 1
        assert (found_there.embeddings[is_gone] == 0).all()
        assert np.array_equal(found_there.embeddings[~is_gone], found.embeddings[~is_gone])
        assert (found.embeddings != 0).any(axis=1).all()

    def test_another_seed_draws_other_points(self, frames: Artefact) -> None:
        truth = read_detections(take_truth(frames, "car").part("0000"))
        reader = FrameReader(frames.part("0000"))
        first, other = (
            embed_sequence(make_embedder(), reader, truth, EmbedConfig(seed=seed)).embeddings
            for seed in (0, 1)
        )
        assert (first != other).any(axis=1).all()


class TestEmbedMasks:
    def test_everything_else_stays_as_it_was(self, frames: Artefact, embedder: Artefact) -> None:
        truth = take_truth(frames, "car")
        artefact = embed_masks(frames, truth, embedder, EmbedConfig())
        model = load_network(embedder, type(make_embedder()))
        for name in SCENES:
            before, after = (read_detections(one.part(name)) for one in (truth, artefact))
            for field in ("frame_offsets", "boxes_xyxy", "scores", "class_indices"):
                assert np.array_equal(getattr(before, field), getattr(after, field)), field
            assert (before.masks or ()) == (after.masks or ())
            assert after.embeddings.shape == (len(before), 4)
            for frame in range(before.num_frames):
                rows = before.rows(frame)
                expected = embed_frame(
                    model,
                    picture(name, frame),
                    (before.masks or ())[rows],
                    frame_random(0, name, frame),
                )
                assert np.array_equal(after.embeddings[rows], expected)
        details = artefact.details()
        assert details["num_detections"] == truth.details()["num_detections"] == 12
        assert (details["detections"], details["weights"]) == (
            truth.fingerprint,
            embedder.fingerprint,
        )

    def test_boxes_without_masks_are_refused(self, frames: Artefact, embedder: Artefact) -> None:
        boxes = replace(take_truth(frames, "car"), fingerprint="b" * 16)
        for name in SCENES:
            truth = read_detections(take_truth(frames, "car").part(name))
            with boxes.part(name).write() as writer:
                writer.write_arrow(DETECTIONS_FILE, replace(truth, masks=None).to_table())
        boxes.finish(list(SCENES), {})
        with pytest.raises(SequenceError, match=r"'0000'.*boxes without masks"):
            embed_masks(frames, boxes, embedder, EmbedConfig())


class TestResuming:
    def test_a_second_run_touches_nothing(
        self, frames: Artefact, segmenter: Artefact, embedder: Artefact
    ) -> None:
        for run in (
            lambda: segment(frames, segmenter, SegmentConfig()),
            lambda: take_truth(frames, "car"),
            lambda: embed_masks(frames, take_truth(frames, "car"), embedder, EmbedConfig()),
        ):
            before = files(run())
            assert files(run()) == before

    @pytest.mark.parametrize("lost", ["0000", "0001"])
    def test_a_lost_part_is_made_again_alone(
        self, frames: Artefact, segmenter: Artefact, embedder: Artefact, lost: str
    ) -> None:
        """Also with the same bits, though its worker saw no other sequence before."""
        for artefact, again in (
            (
                segment(frames, segmenter, SegmentConfig()),
                lambda: segment(frames, segmenter, SegmentConfig()),
            ),
            (
                embed_masks(frames, take_truth(frames, "car"), embedder, EmbedConfig()),
                lambda: embed_masks(frames, take_truth(frames, "car"), embedder, EmbedConfig()),
            ),
        ):
            before = files(artefact)
            shutil.rmtree(artefact.part(lost).folder)
            after = files(again())
            assert after[lost][0] == before[lost][0]
            assert after[lost][1] > before[lost][1]
            for other in set(before) - {lost}:
                assert after[other] == before[other]

    def test_what_changes_a_result_changes_its_name(
        self, frames: Artefact, segmenter: Artefact, embedder: Artefact
    ) -> None:
        root = Path(frames.root)
        moved = replace(frames, fingerprint="e" * 16)
        shutil.copytree(frames.folder, moved.folder)
        segmenter2 = store_network(root, make_segmenter(seed=1), "segmenter2")
        embedder2 = store_network(root, make_embedder(seed=1), "embedder2")
        cars, people = (take_truth(frames, name) for name in ("car", "pedestrian"))
        found = [
            cars,
            people,
            take_truth(moved, "car"),
            segment(frames, segmenter, SegmentConfig()),
            segment(frames, segmenter, SegmentConfig(min_pixels=21)),
            segment(frames, segmenter, SegmentConfig(seed_threshold=0.6)),
            segment(frames, segmenter2, SegmentConfig()),
            segment(moved, segmenter, SegmentConfig()),
            embed_masks(frames, cars, embedder, EmbedConfig()),
            embed_masks(frames, cars, embedder, EmbedConfig(seed=1)),
            embed_masks(frames, cars, embedder2, EmbedConfig()),
            embed_masks(frames, people, embedder, EmbedConfig()),
        ]
        assert len({artefact.fingerprint for artefact in found}) == len(found)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(
    ray_session: None, frames: Artefact, segmenter: Artefact, embedder: Artefact
) -> None:
    for run in (
        lambda n: segment(frames, segmenter, SegmentConfig(), num_workers=n),
        lambda n: embed_masks(
            frames, take_truth(frames, "car"), embedder, EmbedConfig(), num_workers=n
        ),
    ):
        one = run(1)
        before = contents(one)
        shutil.rmtree(one.folder)
        two = run(2)
        assert two == one
        assert contents(two) == before


def test_the_embedder_of_these_tests_is_small() -> None:
    assert PointTrackConfig(**vars(EMBEDDER)) == EMBEDDER
