"""Training the segmentation: which images a step takes, how it is judged, and going on."""

import io
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.mots_crops import IGNORE
from datasets.mots_transforms import MappedImage
from models.pointtrack.config import SegmentationTrainConfig, SpatialEmbeddingConfig
from models.pointtrack.losses import spatial_embedding_terms
from models.pointtrack.segmentation import SpatialEmbedding
from pipeline.prepare import select_frames
from pipeline.segmentation_training import (
    CropSource,
    FrameSource,
    SegmentationLearner,
    iterate_steps,
    train_segmentation,
    validate,
)
from pipeline.store import Artefact
from pipeline.training_loop import Checkpoint, Hooks, run_training
from tests.point_scene import (
    HEIGHT,
    SCENES,
    WIDTH,
    cut_crops,
    make_segmenter,
    map_of,
    picture,
    write_scenes,
)
from tests.training_scene import assert_same_state

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
MODEL = SpatialEmbeddingConfig(seed_threshold=0.5, min_pixels=20)
TINY = SegmentationTrainConfig(
    epochs=2,
    images_per_epoch=6,
    images_per_step=2,
    learning_rate=1e-3,
    validation_images=3,
    validation_height=32,
    validation_width=48,
)
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return write_scenes(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def crops(frames: Artefact) -> Artefact:
    return cut_crops(frames)


def frame_source(frames: Artefact, class_name: str = "car") -> FrameSource:
    selected = tuple(select_frames(frames, class_name))
    return FrameSource(frames=frames, class_name=class_name, selected=selected)


@dataclass
class Numbered:
    """Samples that say which they are; remembers who was asked for."""

    count: int

    def __post_init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> MappedImage:
        self.asked.append(index)
        rows, columns = np.mgrid[:24, :32]
        image = np.stack([np.full_like(rows, index), rows, 100 + columns], axis=2)
        ids = np.full((24, 32), index + 1, np.uint16)
        return MappedImage(image.astype(np.uint8), ids)


Seen = tuple[int, int, int, bool]
"""Sample, first row, leftmost column, and whether it is mirrored."""


def seen(item: MappedImage) -> Seen:
    left, right = int(item.image[0, 0, 2]), int(item.image[0, -1, 2])
    return int(item.instances[0, 0]) - 1, int(item.image[0, 0, 1]), min(left, right), left > right


def walk(config: SegmentationTrainConfig, count: int = 9, **place: int) -> list[list[Seen]]:
    return [[seen(i) for i in items] for items in iterate_steps(Numbered(count), config, **place)]


CROPPED = replace(TINY, epochs=3, crop_height=16, crop_width=24, vary_brightness=False)
"""Nine steps of two images."""


class TestSteps:
    def test_all_epochs_in_steps_of_one_size(self) -> None:
        steps = walk(CROPPED)
        assert [len(step) for step in steps] == [2] * 9
        corners = {(top, left) for step in steps for _, top, left, _ in step}
        assert len(corners) > 8
        assert all(0 <= top <= 8 and 100 <= left <= 108 for top, left in corners)
        assert {mirrored for step in steps for *_, mirrored in step} == {True, False}
        epochs = [steps[start : start + 3] for start in (0, 3, 6)]
        assert epochs[0] != epochs[1] != epochs[2]

    @pytest.mark.parametrize("selection", ["random", "first"])
    def test_two_workers_share_what_one_has(self, selection: Any) -> None:
        config = replace(CROPPED, selection=selection, images_per_step=4, images_per_epoch=8)
        alone = walk(config)
        ranks = [walk(config, rank=rank, num_workers=2) for rank in range(2)]
        assert len(ranks[0]) == len(ranks[1]) == len(alone) == 6
        for step, first, second in zip(alone, *ranks, strict=True):
            assert [len(first), len(second)] == [2, 2]
            assert sorted([*first, *second]) == sorted(step)

    @pytest.mark.parametrize("selection", ["random", "first"])
    def test_going_on_anywhere_gives_the_rest(self, selection: Any) -> None:
        config = replace(CROPPED, selection=selection)
        whole = walk(config)
        for start_step in range(10):
            assert walk(config, start_step=start_step) == whole[start_step:], start_step
        assert walk(config, start_step=4, rank=1, num_workers=2) == [step[1:] for step in whole[4:]]

    def test_a_random_selection_draws_from_all_with_replacement(self) -> None:
        config = replace(CROPPED, epochs=30)
        drawn = [index for step in walk(config) for index, *_ in step]
        counts = np.bincount(drawn, minlength=9)
        assert counts.sum() == 180
        assert counts.min() > 5
        per_epoch = [drawn[start : start + 6] for start in range(0, 180, 6)]
        assert any(len(set(epoch)) < 6 for epoch in per_epoch)

    def test_an_epoch_may_be_longer_than_the_list(self) -> None:
        config = replace(CROPPED, images_per_epoch=20, epochs=1)
        assert len(walk(config, count=3)) == 10

    def test_the_first_are_all_that_is_ever_seen(self) -> None:
        """As in the release: 1,000 frames of 5,027, in another order each epoch."""
        config = replace(CROPPED, selection="first", epochs=5)
        samples = Numbered(100)
        steps = list(iterate_steps(samples, config))
        assert set(samples.asked) == set(range(6))
        assert len(steps) == 15
        epochs = [samples.asked[start : start + 6] for start in range(0, 30, 6)]
        assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1

    def test_the_first_of_a_short_list_are_all_of_it(self) -> None:
        """What does not fill a step is left over, other images each epoch."""
        config = replace(CROPPED, selection="first", images_per_step=3, epochs=8)
        drawn = [[index for index, *_ in step] for step in walk(config, count=5)]
        assert len(drawn) == 8
        assert all(len(set(step)) == 3 for step in drawn)
        assert {index for step in drawn for index in step} == set(range(5))

    def test_another_seed_is_another_training(self) -> None:
        assert walk(CROPPED) != walk(replace(CROPPED, seed=1))
        assert walk(CROPPED) == walk(CROPPED)

    def test_the_same_image_twice_is_varied_twice(self) -> None:
        variants = {s for step in walk(replace(CROPPED, epochs=1), count=1) for s in step}
        assert len(variants) > 3

    def test_brightness_and_flip_are_switches(self) -> None:
        plain = replace(CROPPED, flip_probability=0.0)
        assert not any(mirrored for step in walk(plain) for *_, mirrored in step)

        def sums(config: SegmentationTrainConfig) -> set[int]:
            items = [i for step in iterate_steps(Grey(), config) for i in step]
            return {int(item.image[0, 0, 0]) for item in items}

        assert sums(plain) == {100}
        assert len(sums(replace(plain, vary_brightness=True))) > 2

    def test_without_a_crop_images_stay_whole(self) -> None:
        [*steps] = iterate_steps(Numbered(4), replace(TINY, vary_brightness=False))
        assert {item.image.shape for step in steps for item in step} == {(24, 32, 3)}


class Grey(Numbered):
    def __init__(self) -> None:
        super().__init__(4)

    def sample(self, index: int) -> MappedImage:
        return MappedImage(np.full((24, 32, 3), 100, np.uint8), np.ones((24, 32), np.uint16))


class TestSources:
    def test_frames_are_those_with_the_class(self, frames: Artefact) -> None:
        source = pickle.loads(pickle.dumps(frame_source(frames)))
        samples = source.open()
        assert len(samples) == 5 + 2
        for index, (name, frame) in enumerate(source.selected):
            image, instances = samples.sample(index)
            assert np.array_equal(image, picture(name, frame))
            values = map_of(SCENES[name][frame])
            assert np.array_equal(instances == IGNORE, values == 10000)
            cars = [value for value in np.unique(values) if value // 1000 == 1]
            for number, value in enumerate(cars, 1):
                assert np.array_equal(instances == number, values == value)
            assert instances[instances != IGNORE].max() == len(cars)

    def test_crops_of_several_artefacts_follow_each_other(
        self, frames: Artefact, crops: Artefact
    ) -> None:
        source = pickle.loads(pickle.dumps(CropSource(crops=(crops, crops))))
        samples = source.open()
        assert len(samples) == 2 * 12
        first, again = samples.sample(3), samples.sample(15)
        assert first.image.shape == (32, 48, 3)
        assert np.array_equal(first.image, again.image)
        assert np.array_equal(first.instances, again.instances)
        windows = np.lib.stride_tricks.sliding_window_view(picture("0000", 1), (32, 48, 3))
        assert (windows == first.image).all(axis=(3, 4, 5)).sum() == 1  # RGB, as it lies there

    def test_names_tell_sources_apart(self, frames: Artefact, crops: Artefact) -> None:
        other = replace(crops, fingerprint="9" * 16)
        sources = [
            CropSource(crops=(crops,)),
            CropSource(crops=(other,)),
            CropSource(crops=(crops, other)),
            frame_source(frames),
            frame_source(frames, "pedestrian"),
            replace(frame_source(frames), frames=replace(frames, fingerprint="8" * 16)),
        ]
        assert len({source.fingerprint for source in sources}) == len(sources)

    def test_a_frame_that_does_not_decode_is_named(self, tmp_path: Path) -> None:
        frames = write_scenes(tmp_path, broken={"0000": [2]})
        selected = (("0000", 2),)
        samples = FrameSource(frames=frames, class_name="car", selected=selected).open()
        with pytest.raises(ValueError, match=r"^0000, frame 2: .*; run ingest again"):
            samples.sample(0)


class TestValidation:
    def test_the_numbers_are_means_over_images(self, frames: Artefact) -> None:
        """Recomputed an image at a time, with windows of whole frames, which leave no choice."""
        config = replace(
            TINY, validation_images=None, validation_height=HEIGHT, validation_width=WIDTH
        )
        model, samples = make_segmenter().train(), frame_source(frames).open()
        found = validate(model, samples, config)
        assert not model.training
        totals, ious = [], []
        for index in range(len(samples)):
            image, instances = samples.sample(index)
            labels = np.where(instances == IGNORE, 254, instances > 0).astype(np.uint8)
            ids = np.where(instances == IGNORE, 0, instances).astype(np.int64)
            with torch.no_grad():
                terms = spatial_embedding_terms(
                    model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255),
                    torch.from_numpy(ids)[None],
                    torch.from_numpy(labels)[None],
                    foreground_weight=config.foreground_weight,
                    is_validation=True,
                )
            totals.append(float(terms.total))
            ious += terms.ious.tolist()
        assert len(totals) == 7
        assert len(ious) == 12
        assert found["validation_total"] == pytest.approx(np.mean(totals), rel=1e-5)
        assert found["validation_iou"] == pytest.approx(np.mean(ious), rel=1e-6)
        parts = found["validation_instance"] + 10 * found["validation_variance"]
        assert found["validation_total"] == pytest.approx(
            parts + found["validation_seed"], rel=1e-5
        )
        assert set(found) == {
            f"validation_{name}" for name in ("total", "instance", "variance", "seed", "iou")
        }
        assert all(type(value) is float for value in found.values())  # for checkpoints

    def test_windows_are_the_same_every_time(self, frames: Artefact) -> None:
        model, samples = make_segmenter(), frame_source(frames).open()
        first = validate(model, samples, TINY)
        torch.manual_seed(5)
        assert validate(model.train(), samples, TINY) == first
        assert validate(model, samples, replace(TINY, seed=1)) != first

    def test_only_the_first_images_count(self) -> None:
        samples = Numbered(9)
        validate(make_segmenter(), samples, TINY)
        assert samples.asked == [0, 1, 2]
        validate(make_segmenter(), samples, replace(TINY, validation_images=99))
        assert samples.asked[3:] == list(range(9))

    def test_nothing_to_validate_on_gives_nothing(self) -> None:
        assert validate(make_segmenter(), Numbered(0), TINY) == {}
        assert validate(make_segmenter(), Numbered(3), replace(TINY, validation_images=0)) == {}

    def test_it_judges_without_touching_the_weights(self, frames: Artefact) -> None:
        model = make_segmenter().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        validate(model, frame_source(frames).open(), TINY)
        assert_same_state(before, model.state_dict())


class Record:
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.checkpoints: dict[int, bytes] = {}

    def checkpoint(self, step: int) -> Checkpoint:
        loaded: Checkpoint = torch.load(io.BytesIO(self.checkpoints[step]), weights_only=True)
        return loaded

    def keep(self, checkpoint: Checkpoint | None) -> None:
        assert checkpoint is not None
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        self.checkpoints[checkpoint["schedule"]["step"]] = buffer.getvalue()


def new_model() -> SpatialEmbedding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpatialEmbedding(MODEL)


def run_here(
    crops: Artefact,
    frames: Artefact,
    config: SegmentationTrainConfig = TINY,
    checkpoint: Checkpoint | None = None,
) -> tuple[dict[str, Tensor], Record]:
    """The loop in this process; returns the kept state."""
    learner, record = SegmentationLearner(new_model(), config), Record()
    samples, judged = CropSource(crops=(crops,)).open(), frame_source(frames).open()
    torch.manual_seed(len(record.rows) if checkpoint is None else 99)  # must not matter
    run_training(
        learner,
        lambda start: iterate_steps(samples, config, start_step=start),
        steps_per_epoch=config.images_per_epoch // config.images_per_step,
        device=CPU,
        hooks=Hooks(
            on_step=lambda step, row: record.rows.update({step: row}),
            on_checkpoint=record.keep,
            on_epoch_end=lambda model, epoch: validate(model, judged, config),
        ),
        checkpoint_every=2,
        checkpoint=checkpoint,
    )
    return learner.model.state_dict(), record


def losses(record: Record) -> dict[int, tuple[float, float | None]]:
    return {step: (row["total"], row.get("validation_total")) for step, row in record.rows.items()}


@pytest.fixture(scope="module")
def uninterrupted(crops: Artefact, frames: Artefact) -> tuple[dict[str, Tensor], Record]:
    torch.set_num_threads(1)
    return run_here(crops, frames)


class TestLoop:
    @pytest.mark.parametrize("step", [2, 3, 4, 6])
    def test_resuming_gives_the_same_bits(
        self,
        crops: Artefact,
        frames: Artefact,
        uninterrupted: tuple[dict[str, Tensor], Record],
        step: int,
    ) -> None:
        state, record = uninterrupted
        assert list(record.checkpoints) == [2, 3, 4, 6]
        resumed, rest = run_here(crops, frames, checkpoint=record.checkpoint(step))
        assert_same_state(resumed, state)
        assert losses(rest) == {s: v for s, v in losses(record).items() if s > step}

    def test_rows_and_checkpoints_say_what_is_trained(
        self, uninterrupted: tuple[dict[str, Tensor], Record]
    ) -> None:
        _, record = uninterrupted
        assert set(record.rows[1]) == {
            *("total", "instance", "variance", "seed"),
            *("learning_rate", "epoch", "images_per_s", "data_wait_share"),
        }
        assert record.rows[3].keys() - record.rows[2].keys() == {
            f"validation_{name}" for name in ("total", "instance", "variance", "seed", "iou")
        }
        config = record.checkpoint(4)["config"]
        assert config["model"]["class_name"] == "car"
        assert config["train"]["images_per_epoch"] == 6

    def test_the_state_with_the_lowest_validation_loss_is_kept(
        self, crops: Artefact, frames: Artefact
    ) -> None:
        """At a rate that destroys the network again in the second epoch."""
        config = replace(TINY, epochs=3)
        learner, record = SegmentationLearner(new_model(), config), Record()
        values = iter([3.0, 1.0, 2.0])
        samples = CropSource(crops=(crops,)).open()
        run_training(
            learner,
            lambda start: iterate_steps(samples, config, start_step=start),
            steps_per_epoch=STEPS_PER_EPOCH,
            device=CPU,
            hooks=Hooks(
                on_checkpoint=record.keep,
                on_epoch_end=lambda model, epoch: {"validation_total": next(values)},
            ),
            checkpoint_every=100,
        )
        assert_same_state(learner.model.state_dict(), record.checkpoint(6)["model"])

    def test_dropout_follows_from_the_place_of_a_step(self, crops: Artefact) -> None:
        """Not from what drew random numbers before, which differs after a restart."""
        found = []
        for noise in (0, 1):
            model = new_model()
            learner = SegmentationLearner(model, TINY)
            learner.start_training()
            torch.manual_seed(noise)
            found.append(self.one_step(learner, crops, step=5, rank=0))
        assert found[0] == found[1]
        others = []
        for step, rank in ((6, 0), (5, 1)):
            learner = SegmentationLearner(new_model(), TINY)
            learner.start_training()
            others.append(self.one_step(learner, crops, step=step, rank=rank))
        assert len({found[0], *others}) == 3

    def one_step(
        self, learner: SegmentationLearner, crops: Artefact, *, step: int, rank: int
    ) -> float:
        from pipeline.training_loop import StepPlace

        samples = CropSource(crops=(crops,)).open()
        return learner.train_step(
            learner.model,
            [samples.sample(0), samples.sample(1)],
            learner.build_optimizer(),
            learner.build_scaler(CPU),
            StepPlace(step, rank, 1e-3, CPU),
        )["total"]

    def test_images_of_several_sizes_are_padded_to_the_largest(self) -> None:
        """Padding teaches nothing: as with the same pixels marked as ignored."""
        from pipeline.training_loop import StepPlace

        rng = np.random.default_rng(0)

        def sample(height: int, width: int) -> MappedImage:
            ids = np.zeros((height, width), np.uint16)
            ids[2:10, 3:12] = 1
            return MappedImage(rng.integers(0, 256, (height, width, 3), np.uint8), ids)

        small, large = sample(21, 30), sample(32, 46)
        by_hand = [
            MappedImage(
                np.pad(s.image, [(0, 32 - h), (0, 48 - w), (0, 0)], mode="edge"),
                np.pad(s.instances, [(0, 32 - h), (0, 48 - w)], constant_values=IGNORE),
            )
            for s, h, w in ((small, 21, 30), (large, 32, 46))
        ]
        values = []
        for items in ([small, large], by_hand):
            learner = SegmentationLearner(new_model(), TINY)
            learner.start_training()
            values.append(
                learner.train_step(
                    learner.model,
                    items,
                    learner.build_optimizer(),
                    learner.build_scaler(CPU),
                    StepPlace(0, 0, 1e-3, CPU),
                )
            )
        assert values[0] == values[1]


# Two workers without Ray


def _train_on_rank(rank: int, port_file: str, crops: Artefact, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{port_file}", rank=rank, world_size=2
    )
    config = replace(TINY, epochs=1)
    learner = SegmentationLearner(new_model(), config)
    samples = CropSource(crops=(crops,)).open()
    rows: list[dict[str, float]] = []
    run_training(
        learner,
        lambda start: iterate_steps(samples, config, start_step=start, rank=rank, num_workers=2),
        steps_per_epoch=STEPS_PER_EPOCH,
        device=CPU,
        hooks=Hooks(on_step=lambda step, row: rows.append(row)),
        checkpoint_every=100,
    )
    parameters = {name: value.detach() for name, value in learner.model.named_parameters()}
    torch.save({"parameters": parameters, "rows": rows}, f"{folder}/rank-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_stay_equal(crops: Artefact, tmp_path: Path) -> None:
    """A layer that is never run waited for its gradient: the second step of two workers failed."""
    torch.multiprocessing.spawn(
        _train_on_rank, args=(str(tmp_path / "port"), crops, str(tmp_path)), nprocs=2
    )
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same_state(ranks[0]["parameters"], ranks[1]["parameters"])
    assert [len(one["rows"]) for one in ranks] == [STEPS_PER_EPOCH, 0]
    assert not torch.equal(
        ranks[0]["parameters"]["seed_decoder.output.bias"], new_model().seed_decoder.output.bias
    )


# The whole, up to where Ray Train begins


class TestWhole:
    def run(self, frames: Artefact, crops: Artefact, **changes: Any) -> Artefact:
        usual: dict[str, Any] = {
            "source": CropSource(crops=(crops,)),
            "model_config": MODEL,
            "config": TINY,
            "root": frames.root,
            "dataset": "kitti",
            "split": "train",
        }
        given = {**usual, **changes}
        arguments = [given.pop(name) for name in ("source", "model_config", "config")]
        return train_segmentation(*arguments, **given)

    def test_images_that_do_not_divide_over_the_workers(
        self, frames: Artefact, crops: Artefact
    ) -> None:
        with pytest.raises(ValueError, match="images_per_step is 2, which does not divide over 3"):
            self.run(frames, crops, num_workers=3)
