"""Configs of PointTrack's trainings: the published numbers, and what no config may hold."""

from dataclasses import fields, replace
from typing import Any

import pytest

from models.pointtrack.config import (
    AssociationTrainConfig,
    PointTrackConfig,
    SegmentationTrainConfig,
    SpatialEmbeddingConfig,
)
from models.pointtrack.items import ItemConfig
from models.pointtrack.schedule import ScheduleConfig

CROPS, FINETUNE = SegmentationTrainConfig.crops(), SegmentationTrainConfig.finetune()


def differences(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    pairs = {f.name: (getattr(one, f.name), getattr(other, f.name)) for f in fields(one)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class TestPublished:
    """Numbers of reference/pointtrack.md, sections 1.4, 1.6 and 3.6."""

    def test_first_stage_of_segmentation(self) -> None:
        assert (CROPS.epochs, CROPS.images_per_epoch, CROPS.images_per_step) == (200, 7000, 4)
        assert (CROPS.learning_rate, CROPS.decay_epochs, CROPS.weight_decay) == (5e-4, None, 1e-4)
        assert (CROPS.foreground_weight, CROPS.flip_probability) == (10, 0.5)
        assert (CROPS.crop_height, CROPS.crop_width) == (None, None)  # crops as they are stored
        assert (CROPS.selection, CROPS.freeze_norms) == ("random", False)
        assert (CROPS.vary_brightness, CROPS.dont_care) == (False, "background")
        assert (CROPS.validation_height, CROPS.validation_width) == (352, 1216)

    def test_second_stage_of_segmentation(self) -> None:
        epochs = (FINETUNE.epochs, FINETUNE.images_per_epoch, FINETUNE.images_per_step)
        assert epochs == (99, 1000, 2)
        rate = (FINETUNE.learning_rate, FINETUNE.decay_epochs, FINETUNE.weight_decay)
        assert rate == (5e-6, 100, 1e-4)
        assert (FINETUNE.foreground_weight, FINETUNE.flip_probability) == (200, 0)
        assert (FINETUNE.crop_height, FINETUNE.crop_width) == (320, 1024)
        assert (FINETUNE.selection, FINETUNE.freeze_norms) == ("first", True)
        assert (FINETUNE.vary_brightness, FINETUNE.dont_care) == (False, "background")
        assert (FINETUNE.validation_height, FINETUNE.validation_width) == (352, 1216)
        pedestrians = SegmentationTrainConfig.finetune(foreground_weight=50.0)
        assert differences(FINETUNE, pedestrians) == {"foreground_weight": (200, 50)}

    def test_ours_differ_from_the_first_stage_in_two_quirks(self) -> None:
        assert differences(CROPS, SegmentationTrainConfig()) == {
            "vary_brightness": (False, True),
            "dont_care": ("background", "left_out"),
        }

    def test_association(self) -> None:
        published = AssociationTrainConfig.published()
        assert published.items_per_step == 1
        assert published.items == ItemConfig(
            num_tracks=24, max_gap=10, gap_in="entries", offset_noise=0.001
        )
        assert published.schedule == ScheduleConfig(
            epochs=34,
            items_per_epoch=500,
            learning_rate=2e-3,
            weight_decay=1e-4,
            step_epochs=(20, 30),
            step_factor=0.1,
        )
        ours = replace(published, items=replace(published.items, gap_in="frames"))
        assert ours == AssociationTrainConfig()

    def test_networks_and_clustering(self) -> None:
        car, pedestrian = SpatialEmbeddingConfig(), SpatialEmbeddingConfig.pedestrian()
        assert (car.class_name, car.seed_threshold, car.min_pixels) == ("car", 0.94, 160)
        assert differences(car, pedestrian) == {
            "class_name": ("car", "pedestrian"),
            "min_pixels": (160, 192),
        }
        net = PointTrackConfig()
        assert (net.num_points, net.num_environment_points) == (1000, 500)
        assert (net.embedding_dim, net.margin) == (32, 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"images_per_epoch": 0}, "images_per_epoch is 0, expected at least 1"),
        ({"images_per_step": 0}, "images_per_step is 0, expected at least 1"),
        ({"images_per_epoch": 3}, "images_per_epoch is 3, expected at least images_per_step"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"foreground_weight": float("inf")}, "foreground_weight is inf"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001, expected a number of at least 0"),
        ({"flip_probability": 1.1}, "flip_probability is 1.1, expected a share from 0 to 1"),
        ({"crop_height": 20, "crop_width": 40}, "crop_height is 20, expected a multiple of 8"),
        ({"crop_height": 24}, "crop_width is None, expected a number exactly where crop_height"),
        ({"crop_width": 24}, "crop_width is 24, expected a number exactly where crop_height"),
        ({"validation_height": 350}, "validation_height is 350, expected a multiple of 8"),
        ({"validation_width": 0}, "validation_width is 0, expected a multiple of 8"),
        ({"validation_images": -1}, "validation_images is -1, expected at least 0"),
        ({"decay_epochs": 199}, "decay_epochs is 199, expected at least epochs, 200"),
    ],
)
def test_a_stage_of_segmentation_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationTrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"items_per_step": 0}, "items_per_step is 0, expected at least 1"),
        ({"items_per_step": 501}, "items_per_step is 501, expected at most the 500 items"),
        ({"validation_sequences": -1}, "validation_sequences is -1, expected at least 0"),
    ],
)
def test_a_training_of_association_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AssociationTrainConfig(**changes)


def test_a_stage_may_have_as_many_epochs_as_its_rate_falls() -> None:
    assert SegmentationTrainConfig(epochs=6, decay_epochs=6, validation_images=0).epochs == 6
