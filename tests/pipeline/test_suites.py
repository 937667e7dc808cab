"""Suites: what a file may say, and the named ones."""

from pathlib import Path
from typing import Any

import pytest

from models.baselines.motion import ByteTrackConfig
from models.baselines.overlap import OverlapConfig
from pipeline.contestants import overlap_baseline
from pipeline.evaluate import EvaluationConfig
from pipeline.recipes import find_recipe
from pipeline.recipes.suites import SUITES, find_suite
from pipeline.suites import OWN_TRACKER, DataSet, NamedTracker, Suite, Weights, read_suite

DATA = '[[data]]\ndata_root = "raw"\n'
WEIGHTS = '[[weights]]\nrecipe = "qdtrack_frcnn_r50_bdd100k"\n'
TRACKER = '[[trackers]]\nname = "one"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_says_everything(tmp_path: Path) -> None:
    text = """
name = "all of it"

[[data]]
data_root = "raw/bdd100k"
split = "val"
notes = "whole"

[[data]]
frames = "/store/frames/mot17/val/0123"

[[data]]
frames = "s3://bucket/frames/bdd100k/val/0123"

[[weights]]
recipe = "qdtrack_frcnn_r50_bdd100k"
file = "../qdtrack.safetensors"
name = "QDTrack"

[[trackers]]
name = "own"

[[trackers]]
name = "ByteTrack, eager"
association.kind = "bytetrack"
association.init_score_thr = 0.5

[[protocols]]
protocol = "bdd100k"
box_convention = "stock"
"""
    folder = tmp_path.resolve()
    assert read_suite(write(tmp_path, text)) == Suite(
        name="all of it",
        data=(
            DataSet(data_root=f"{folder}/raw/bdd100k", split="val", notes="whole"),
            DataSet(frames="/store/frames/mot17/val/0123"),
            DataSet(frames="s3://bucket/frames/bdd100k/val/0123"),
        ),
        weights=(
            Weights(
                recipe="qdtrack_frcnn_r50_bdd100k",
                file=f"{folder}/../qdtrack.safetensors",
                name="QDTrack",
            ),
        ),
        trackers=(
            OWN_TRACKER,
            NamedTracker(name="ByteTrack, eager", association=ByteTrackConfig(init_score_thr=0.5)),
        ),
        protocols=(EvaluationConfig(box_convention="stock"),),
    )


def test_a_file_need_not_say_much(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, DATA + WEIGHTS))
    assert (suite.name, suite.trackers, suite.protocols) == ("mine", (OWN_TRACKER,), ())
    assert suite.weights[0].title == "qdtrack_frcnn_r50_bdd100k"
    assert suite.data[0].config().dataset == "bdd100k"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[data]\n", "not a suite: .*line 1"),
        (WEIGHTS, "no value for data"),
        (DATA, "no value for weights"),
        (f"trackers = []\n{DATA}{WEIGHTS}", "trackers is empty"),
        (DATA + WEIGHTS + "[[tracker]]\n", r"'tracker'; did you mean trackers"),
        (DATA.replace("data_root", "data_rot") + WEIGHTS, r"data\[0\].data_rot'; did you mean"),
        ("[[data]]\n" + WEIGHTS, r"data\[0\]: expected either frames.* or data_root"),
        (DATA + 'frames = "x"\n' + WEIGHTS, r"data\[0\]: expected either frames"),
        (DATA + 'benchmark = "coco"\n' + WEIGHTS, r"data\[0\]: benchmark is 'coco', expected one"),
        (DATA + DATA + WEIGHTS, "data has .* 2 times"),
        (DATA + WEIGHTS + WEIGHTS, "weights has 'qdtrack_frcnn_r50_bdd100k' 2 times"),
        (DATA + WEIGHTS + TRACKER + TRACKER, "trackers has 'one' 2 times"),
        (DATA + WEIGHTS + "[[trackers]]\nname = ' '\n", r"trackers\[0\]: name is empty"),
        (
            DATA + WEIGHTS + TRACKER + 'association.kind = "deepsort"\n',
            r"trackers\[0\].association.kind: expected one of quasi_dense, .*, found 'deepsort'",
        ),
        (
            DATA + WEIGHTS + TRACKER + "association.init_score_thr = 0.5\n",
            r"association.kind: expected one of .*, found None",
        ),
        (
            DATA + WEIGHTS + TRACKER + 'association = {kind = "sort", memo_frames = 3}\n',
            r"unknown field 'trackers\[0\].association.memo_frames'; did you mean .*min_frames",
        ),
        (
            DATA + WEIGHTS + TRACKER + 'association = {kind = "sort", match_iou_thr = 3.0}\n',
            r"trackers\[0\].association: match_iou_thr is 3.0, expected a number from 0 to 1",
        ),
        (DATA + WEIGHTS + "[[protocols]]\nprotocol = 'coco'\n", "evaluation.protocol is 'coco'"),
        (
            DATA + WEIGHTS + 2 * "[[protocols]]\nprotocol = 'mot17'\n",
            "protocols has EvaluationConfig.*mot17.* 2 times",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: not a suite: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_suite(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", SUITES)
def test_named_suites_compare_the_own_tracker_with_the_baselines(name: str) -> None:
    suite = find_suite(name, "/raw", "/w.safetensors")
    assert suite.name == name
    assert [tracker.name for tracker in suite.trackers] == [
        *("own", "overlap only", "SORT", "ByteTrack", "OC-SORT")
    ]
    assert suite.data[0].data_root == "/raw"
    (weights,) = suite.weights
    assert weights.file == "/w.safetensors"
    own: Any = find_recipe(weights.recipe).association
    overlap = suite.trackers[1].association
    assert overlap == overlap_baseline(own)
    assert isinstance(overlap, OverlapConfig)
    births = {t.name: getattr(t.association, "init_score_thr", None) for t in suite.trackers[1:4]}
    assert births == dict.fromkeys(("overlap only", "SORT", "ByteTrack"), own.init_score_thr)


def test_an_unknown_suite_lists_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'bdd10k'; did you mean bdd100k\?.*\.toml"):
        find_suite("bdd10k", "/raw")
    with pytest.raises(ValueError, match="did you mean synthetic, bdd100k"):
        find_suite("x", "/raw")
