"""Every recipe builds, says what it is for, and takes overrides by path."""

from dataclasses import replace

import pytest

from models.config_io import config_from_dict, config_to_dict
from models.pointtrack.association import PointTrackerConfig
from models.pointtrack.config import AssociationTrainConfig, SegmentationTrainConfig
from pipeline.config import ExperimentConfig, MotsConfig, RecipeConfig
from pipeline.overrides import apply_overrides
from pipeline.prepare import CropConfig
from pipeline.recipes import RECIPES, find_recipe

MASKS = sorted(name for name in RECIPES if name.startswith("pointtrack"))
PUBLISHED = [name for name in MASKS if name.endswith("published")]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_complete_config_of_its_name(name: str) -> None:
    config = find_recipe(name, RecipeConfig)
    assert config.recipe == name
    assert config.evaluation.protocol == config.data.benchmark
    assert type(config) is (MotsConfig if name in MASKS else ExperimentConfig)
    assert config_from_dict(type(config), config_to_dict(config)) == config
    assert find_recipe(name, type(config)) == config


@pytest.mark.parametrize("name", MASKS)
def test_a_recipe_of_masks_is_of_one_class(name: str) -> None:
    config = find_recipe(name, MotsConfig)
    class_name = "pedestrian" if "pedestrian" in name else "car"
    found = {
        config.class_name,
        config.segmentation.model.class_name,
        config.segmentation.crops.class_name,
        config.embedding.model.class_name,
    }
    assert found == {class_name}
    assert config.data.train_splits == ("train",)
    assert isinstance(config.association, PointTrackerConfig)


class TestKind:
    def test_a_recipe_of_another_kind_names_its_job(self) -> None:
        message = (
            r"recipe 'pointtrack_kitti_mots_car' tracks masks \(jobs.train_kitti_mots\), expected "
            r"one that tracks boxes \(jobs.train_bdd\)"
        )
        with pytest.raises(ValueError, match=message):
            find_recipe("pointtrack_kitti_mots_car")
        message = (
            r"'qdtrack_frcnn_r50_bdd100k' tracks boxes \(jobs.train_bdd\), expected one that "
            r"tracks masks \(jobs.train_kitti_mots\)"
        )
        with pytest.raises(ValueError, match=message):
            find_recipe("qdtrack_frcnn_r50_bdd100k", MotsConfig)

    def test_an_unknown_name_lists_the_nearest(self) -> None:
        with pytest.raises(ValueError, match="'pointtrack_kitti_car'; did you mean pointtrack_ki"):
            find_recipe("pointtrack_kitti_car", MotsConfig)


class TestPublished:
    """Reference 1.6, 1.7, 3.6, 4 and the quirks of 9."""

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_every_quirk_is_there(self, name: str) -> None:
        config = find_recipe(name, MotsConfig)
        weight = 50.0 if "pedestrian" in name else 200.0
        assert config.segmentation.on_crops == SegmentationTrainConfig.crops()
        assert config.segmentation.on_frames == SegmentationTrainConfig.finetune(weight)
        assert config.embedding.train == AssociationTrainConfig.published()
        assert config.segmentation.crops.ignore_as_background

    def test_crops(self) -> None:
        sizes = {}
        for name in MASKS:
            crops = find_recipe(name, MotsConfig).segmentation.crops
            sizes[name] = (crops.height, crops.width)
        assert {sizes[name] for name in MASKS if "kitti_mots_car" in name} == {(160, 640)}
        assert {sizes[name] for name in MASKS if "kitti_mots_pedestrian" in name} == {(160, 256)}
        car = find_recipe("pointtrack_kitti_mots_car_published", MotsConfig)
        assert car.segmentation.crops == CropConfig(ignore_as_background=True, stills_only=True)
        people = find_recipe("pointtrack_kitti_mots_pedestrian_published", MotsConfig)
        assert not people.segmentation.crops.stills_only  # only the constant of cars is wrong

    def test_trackers(self) -> None:
        car = find_recipe("pointtrack_kitti_mots_car_published", MotsConfig).association
        assert isinstance(car, PointTrackerConfig)
        assert (car.mask_iou_weight, car.keep_alive_frames) == (0.74, 30)
        assert car.match_threshold == 0.8165986526897969
        people = find_recipe("pointtrack_kitti_mots_pedestrian", MotsConfig).association
        assert people == PointTrackerConfig.pedestrian()

    def test_ours_leaves_the_quirks_out(self) -> None:
        for name in ("pointtrack_kitti_mots_car", "pointtrack_kitti_mots_pedestrian"):
            config = find_recipe(name, MotsConfig)
            stages = (config.segmentation.on_crops, config.segmentation.on_frames)
            for stage in stages:
                assert stage is not None
                assert stage.dont_care == "left_out"
                assert stage.vary_brightness
                assert stage.selection == "random"
            assert config.embedding.train.items.gap_in == "frames"
            assert not config.segmentation.crops.ignore_as_background
            assert not config.segmentation.crops.stills_only

    def test_min_pixels(self) -> None:
        found = {n: find_recipe(n, MotsConfig).segmentation.model.min_pixels for n in MASKS}
        assert found["pointtrack_kitti_mots_car"] == 160
        assert found["pointtrack_kitti_mots_pedestrian_published"] == 192


class TestOverrides:
    CAR = find_recipe("pointtrack_kitti_mots_car", MotsConfig)

    def test_paths_reach_every_stage(self) -> None:
        changed = apply_overrides(
            self.CAR,
            {
                "segmentation.on_crops.epochs": "1",
                "segmentation.on_frames.foreground_weight": "50",
                "segmentation.infer.min_pixels": "7",
                "embedding.train.items.gap_in": "entries",
                "embedding.train.schedule.step_epochs": "(2,3)",
                "embedding.train.schedule.epochs": "4",
                "association.match_threshold": "0.5",
            },
        )
        assert changed.segmentation.on_crops.epochs == 1
        assert changed.segmentation.on_frames is not None
        assert changed.segmentation.on_frames.foreground_weight == 50
        assert changed.segmentation.infer.min_pixels == 7
        assert changed.segmentation.infer.seed_threshold is None
        assert changed.embedding.train.items.gap_in == "entries"
        assert changed.embedding.train.schedule.step_epochs == (2, 3)
        assert changed.association == PointTrackerConfig(match_threshold=0.5)

    def test_the_second_stage_is_left_out_and_taken_up(self) -> None:
        without = apply_overrides(self.CAR, {"segmentation.on_frames": "none"})
        assert without.segmentation.on_frames is None
        synthetic = find_recipe("pointtrack_synthetic_car", MotsConfig)
        assert synthetic.segmentation.on_frames is None
        taken = apply_overrides(synthetic, {"segmentation.on_frames.epochs": "2"})
        assert taken.segmentation.on_frames == SegmentationTrainConfig(epochs=2)

    def test_another_tracker_is_chosen_by_its_kind(self) -> None:
        changed = apply_overrides(
            self.CAR, {"association.kind": "mask_overlap", "association.memo_frames": "3"}
        )
        assert changed.association.kind == "mask_overlap"

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("segmentation.on_crop.epochs", "1", "did you mean segmentation.on_crops"),
            ("segmentation.on_crops.epochs", "many", "segmentation.on_crops.epochs"),
            ("segmentation.on_crops.selection", "last", "segmentation.on_crops.selection"),
            ("segmentation.on_crops.dont_care", "ignored", "segmentation.on_crops.dont_care"),
            ("segmentation.model.class_name", "pedestrian", "crops.class_name is 'car' and model"),
            ("embedding.model.class_name", "pedestrian", "expected the same"),
            ("data.train_splits", "(train,val)", "expected one split to train on"),
        ],
    )
    def test_what_does_not_fit_is_named(self, path: str, value: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            apply_overrides(self.CAR, {path: value})

    def test_a_split_that_would_not_be_read_is_refused(self) -> None:
        """Only the first one was trained on, and the weights were named after both."""
        with pytest.raises(ValueError, match=r"train_splits is \('train', 'val'\), expected one"):
            replace(self.CAR, data=replace(self.CAR.data, train_splits=("train", "val")))
