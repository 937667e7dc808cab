"""Training items and their schedule: draws against a plain version, gaps, labels, seeds."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config_io import config_from_dict, config_to_dict
from models.pointtrack.items import (
    ItemConfig,
    TrackEntry,
    TrainingItem,
    assemble_item,
    draw_item,
    item_generator,
    item_random,
)
from models.pointtrack.points import InstanceCrop, crop_points, instance_crops
from models.pointtrack.schedule import ScheduleConfig, build_optimizer, learning_rate

Tracks = dict[str, list[TrackEntry]]


def make_tracks(lengths: list[int], *, stride: int = 1) -> Tracks:
    """Entries of track t are 1000 t, 1000 t + 1, ..., every `stride` frames."""
    return {
        f"0001_{1000 + t}": [TrackEntry(5 + stride * i, 1000 * t + i) for i in range(length)]
        for t, length in enumerate(lengths)
    }


def released_draw(tracks: Tracks, rng: random.Random, num_tracks: int = 24) -> TrainingItem:
    """The release's draw as it is described, gaps in entries."""
    entries: list[int] = []
    labels: list[int] = []
    for label, key in enumerate(rng.sample(list(tracks), num_tracks)):
        track = [entry.entry for entry in tracks[key]]
        if len(track) > 2:
            middle = rng.choice(range(1, len(track) - 1))
            gap = rng.choice(range(1, 11))
            start, end = max(0, middle - gap), min(len(track) - 1, middle + gap)
            chosen = [track[start], track[middle], track[end]]
        else:
            chosen = track[:2]
        entries += chosen
        labels += [label + 1] * len(chosen)
    return TrainingItem(tuple(entries), tuple(labels))


class TestDraw:
    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 1 << 30), st.lists(st.integers(1, 60), min_size=24, max_size=40))
    def test_published_items_are_those_of_the_release(self, seed: int, lengths: list[int]) -> None:
        tracks = make_tracks(lengths, stride=3)
        ours, theirs = random.Random(seed), random.Random(seed)
        for _ in range(3):
            item = draw_item(tracks, ours, ItemConfig.published())
            assert item == released_draw(tracks, theirs)
        assert ours.random() == theirs.random()

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 1 << 30), st.lists(st.integers(1, 60), min_size=24, max_size=40))
    def test_without_holes_frames_and_entries_count_the_same(
        self, seed: int, lengths: list[int]
    ) -> None:
        tracks = make_tracks(lengths)
        by_frames = draw_item(tracks, random.Random(seed), ItemConfig())
        assert by_frames == draw_item(tracks, random.Random(seed), ItemConfig.published())

    def test_labels_are_the_places_in_the_draw(self) -> None:
        item = draw_item(make_tracks([9] * 30), random.Random(0), ItemConfig())
        assert item.labels == tuple(label for label in range(1, 25) for _ in range(3))
        owners = [entry // 1000 for entry in item.entries]
        assert len(set(owners)) == 24
        assert owners[::3] != sorted(owners[::3])
        assert all(len(set(owners[i : i + 3])) == 1 for i in range(0, 72, 3))

    def test_short_tracks_give_what_they_have_and_draw_nothing(self) -> None:
        rng, expected = random.Random(3), random.Random(3)
        item = draw_item({"a": [TrackEntry(4, 40), TrackEntry(9, 90)]}, rng, ItemConfig())
        assert item == TrainingItem((40, 90), (1, 1))
        expected.sample(["a"], 1)
        assert rng.random() == expected.random()
        item = draw_item({"a": [TrackEntry(4, 40)]}, rng, ItemConfig())
        assert item == TrainingItem((40,), (1,))

    @pytest.mark.parametrize("config", [ItemConfig(), ItemConfig.published()])
    def test_three_entries_give_all_of_them(self, config: ItemConfig) -> None:
        for seed in range(20):
            item = draw_item(make_tracks([3]), random.Random(seed), config)
            assert item.entries == (0, 1, 2)

    def test_fewer_tracks_give_all_of_them(self) -> None:
        items = [draw_item(make_tracks([1] * 5), random.Random(i), ItemConfig()) for i in range(9)]
        assert all(sorted(item.entries) == [0, 1000, 2000, 3000, 4000] for item in items)
        assert all(item.labels == (1, 2, 3, 4, 5) for item in items)
        assert len({item.entries for item in items}) > 3

    def test_middle_and_gap_are_uniform_over_their_ranges(self) -> None:
        tracks = make_tracks([41])
        middles, gaps = Counter[int](), Counter[int]()
        for seed in range(4000):
            first, middle, last = draw_item(tracks, random.Random(seed), ItemConfig()).entries
            middles[middle] += 1
            if 10 <= middle <= 30:
                gaps[last - middle] += 1
                assert last - middle == middle - first
        assert set(middles) == set(range(1, 40))
        assert set(gaps) == set(range(1, 11))
        assert max(gaps.values()) < 1.5 * min(gaps.values())

    def test_gap_in_entries_crosses_a_hole_and_gap_in_frames_does_not(self) -> None:
        """A car hidden for 100 frames: the release takes crops from both sides as neighbours."""
        frames = [*range(10), *range(110, 120)]
        track = {"a": [TrackEntry(frame, frame) for frame in frames]}
        spans: dict[str, list[int]] = {"entries": [], "frames": []}
        for seed in range(300):
            for gap_in, found in spans.items():
                config = config_from_dict(ItemConfig, {"gap_in": gap_in})
                first, middle, last = draw_item(track, random.Random(seed), config).entries
                if middle not in (9, 110):
                    found += [middle - first, last - middle]
        assert max(spans["entries"]) > 100
        assert max(spans["frames"]) <= 10

    def test_neighbour_across_a_hole_is_taken_all_the_same(self) -> None:
        track = {"a": [TrackEntry(frame, frame) for frame in (0, 50, 100)]}
        for seed in range(10):
            item = draw_item(track, random.Random(seed), ItemConfig())
            assert item.entries == (0, 50, 100)

    @pytest.mark.parametrize(
        ("tracks", "message"),
        [
            ({}, "no tracks"),
            ({"0002_1003": []}, "0002_1003"),
            ({"a": [TrackEntry(3, 0), TrackEntry(2, 1)]}, r"frames \[3, 2\]"),
            ({"a": [TrackEntry(3, 0), TrackEntry(3, 1)]}, r"frames \[3, 3\]"),
        ],
    )
    def test_wrong_tracks_are_named(self, tracks: Tracks, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            draw_item(tracks, random.Random(0), ItemConfig())

    def test_default_differs_from_the_release_in_the_gap_alone(self) -> None:
        published = config_to_dict(ItemConfig.published())
        assert {**published, "gap_in": "frames"} == config_to_dict(ItemConfig())
        assert published["num_tracks"] == 24
        assert published["max_gap"] == 10
        assert published["offset_noise"] == 0.001

    @pytest.mark.parametrize(
        "change",
        [{"num_tracks": 0}, {"max_gap": 0}, {"gap_in": "seconds"}, {"offset_noise": -1.0}],
    )
    def test_wrong_values_are_named(self, change: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(change))):
            ItemConfig(**change)  # type: ignore[arg-type]


class TestSeeds:
    def test_same_item_same_numbers_other_item_others(self) -> None:
        places = [(s, e, i) for s in range(3) for e in range(3) for i in range(12)]
        places += [(1, 1, 11), (11, 1, 1), (1, 11, 1)]
        for source in (item_random, item_generator):
            draws = {place: source(*place).random() for place in places}
            assert len(set(draws.values())) == len(draws)
            assert draws == {place: source(*place).random() for place in reversed(places)}

    def test_numbers_are_the_same_on_every_machine(self) -> None:
        # Stored values of these two calls.
        assert item_random(0, 1, 2).randrange(1 << 30) == 57754802
        assert item_generator(0, 1, 2).randint(1 << 30) == 114462515


class TestAssembly:
    def test_crop_after_crop_from_one_source(self) -> None:
        crops = self._crops()
        item = assemble_item(crops, [1, 1, 2], np.random.RandomState(4), offset_noise=0.001)
        rng = np.random.RandomState(4)
        for row, crop in enumerate(crops):
            points, position = crop_points(crop, rng, offset_noise=0.001)
            np.testing.assert_array_equal(item.points[row], points)
            np.testing.assert_array_equal(item.positions[row], position)
        assert item.labels.tolist() == [1, 1, 2]
        assert item.points.dtype == item.positions.dtype == np.float32
        assert torch.from_numpy(item.labels).dtype == torch.int64

    def test_noise_and_numbers_of_points_can_be_set(self) -> None:
        crops = self._crops()
        item = assemble_item(
            crops,
            [1, 2, 3],
            np.random.RandomState(4),
            offset_noise=0,
            num_points=30,
            num_environment_points=10,
        )
        assert item.points.shape == (3, 40, 8)
        assert np.unique(item.points[0, :30, 3]).size == 9

    def test_no_crops_give_empty_arrays(self) -> None:
        item = assemble_item([], [], np.random.RandomState(0))
        assert item.points.shape == (0, 1500, 8)
        assert item.positions.shape == (0, 4)
        assert item.labels.shape == (0,)

    def test_another_number_of_labels_is_refused(self) -> None:
        with pytest.raises(ValueError, match="3 crops and 2 labels"):
            assemble_item(self._crops(), [1, 2], np.random.RandomState(0))

    @staticmethod
    def _crops() -> list[InstanceCrop]:
        instances = np.zeros((30, 40), np.int32)
        for number, left in ((3, 2), (5, 14), (9, 27)):
            instances[5 : 11 + number, left : left + 9] = number
        image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
        return instance_crops(image, instances)


class TestSchedule:
    def test_rate_of_every_published_epoch(self) -> None:
        rates = [learning_rate(epoch, ScheduleConfig()) for epoch in range(1, 35)]
        assert rates == pytest.approx([2e-3] * 19 + [2e-4] * 10 + [2e-5] * 5)

    @pytest.mark.parametrize("epoch", [0, 35])
    def test_epochs_outside_the_schedule_are_refused(self, epoch: int) -> None:
        with pytest.raises(ValueError, match="1 to 34"):
            learning_rate(epoch, ScheduleConfig())

    def test_published_size(self) -> None:
        config = ScheduleConfig()
        assert (config.epochs, config.items_per_epoch) == (34, 500)

    def test_optimiser_is_adam_on_what_is_trained(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        model[0].bias.requires_grad_(False)
        optimizer = build_optimizer(model, ScheduleConfig())
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert [id(p) for p in group["params"]] == [
            id(p) for p in (model[0].weight, model[1].weight, model[1].bias)
        ]
        assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-3, 1e-4, (0.9, 0.999))

    def test_no_drops_at_all(self) -> None:
        config = ScheduleConfig(step_epochs=(), learning_rate=0.5, epochs=2)
        assert learning_rate(2, config) == 0.5

    @pytest.mark.parametrize(
        "change",
        [
            {"epochs": 0},
            {"items_per_epoch": 0},
            {"learning_rate": -1.0},
            {"weight_decay": float("nan")},
            {"step_factor": 2.0},
            {"step_epochs": (30, 20)},
            {"step_epochs": (0, 20)},
        ],
    )
    def test_wrong_values_are_named(self, change: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(change))):
            ScheduleConfig(**change)  # type: ignore[arg-type]
