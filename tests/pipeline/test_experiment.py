"""What would stop an experiment after hours stops it before any work."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.baselines.mask_overlap import MaskOverlapConfig
from models.baselines.motion import SortConfig
from models.baselines.overlap import OverlapConfig
from models.pointtrack.association import PointTrackerConfig
from models.qdtrack.association import TaoTrackerConfig, TrackerConfig
from pipeline.config import ExperimentConfig
from pipeline.contestants import overlap_baseline, overlap_words
from pipeline.evaluate import EvaluationConfig
from pipeline.experiment import RunOptions, run_experiment
from pipeline.recipes import find_recipe

SMALL = find_recipe("qdtrack_frcnn_r18_synthetic")


def refused(config: ExperimentConfig, folder: Path, init_weights: str | None = None) -> str:
    options = RunOptions(
        data_root=folder / "raw", output_root=str(folder / "root"), init_weights=init_weights
    )
    said: list[str] = []
    with pytest.raises((ValueError, OSError)) as caught:
        run_experiment(config, options, said.append)
    assert said == []
    assert not (folder / "root").exists()
    return str(caught.value)


@pytest.mark.slow
def test_it_stops_before_ingest(ray_session: None, tmp_path: Path) -> None:
    no_backbone = replace(SMALL, train=replace(SMALL.train, backbone_weights=None))
    assert "backbone_weights" in refused(no_backbone, tmp_path)
    nowhere = replace(SMALL, train=replace(SMALL.train, backbone_weights=str(tmp_path / "none")))
    assert str(tmp_path / "none") in refused(nowhere, tmp_path)
    assert "none.safetensors" in refused(SMALL, tmp_path, str(tmp_path / "none.safetensors"))
    other_rules = replace(SMALL, evaluation=EvaluationConfig(protocol="mot17"))
    assert "evaluation.protocol is 'mot17'" in refused(other_rules, tmp_path)


def test_the_baseline_takes_over_what_it_shares() -> None:
    found = overlap_baseline(TrackerConfig(init_score_thr=0.6, nms_backdrop_iou_thr=0.4))
    assert isinstance(found, OverlapConfig)
    assert (found.init_score_thr, found.nms_backdrop_iou_thr) == (0.6, 0.4)
    assert overlap_baseline(TaoTrackerConfig(memo_frames=7)).memo_frames == 7
    assert overlap_baseline(SortConfig()) == overlap_baseline(OverlapConfig()) == OverlapConfig()


def test_beside_a_tracker_of_masks_stands_the_overlap_of_masks() -> None:
    found = overlap_baseline(PointTrackerConfig(keep_alive_frames=7))
    assert found == MaskOverlapConfig(memo_frames=7)
    assert overlap_baseline(found) == found
    assert overlap_words(found) == "mask overlap only"
    assert overlap_words(OverlapConfig()) == "overlap only"
