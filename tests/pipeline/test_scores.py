"""The stage that scores: what it keeps, and what comes back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.schema import SequenceResult, SequenceTruth
from pipeline.associate import TRACKS_FILE
from pipeline.confidence import intervals
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate, evaluate_sequence
from pipeline.scores import (
    FIELDS_FILE,
    REPORT_PART,
    pack_fields,
    parse_fields,
    read_fields_file,
    read_intervals,
    read_report,
    score,
)
from pipeline.store import Artefact, fingerprint
from tests.mots_files import random_scene, result_of, truth_of
from tests.stored_truth import write_truth

RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]
Pairs = dict[str, tuple[SequenceTruth, SequenceResult]]

RULES = EvaluationConfig()


@pytest.fixture(scope="module")
def pairs(random_sequence: RandomSequence) -> Pairs:
    return {name: random_sequence(name) for name in ("a", "b", "c")}


def store(root: Path, pairs: Pairs) -> tuple[Artefact, Artefact]:
    """Frames without images, and tracks, as finished artefacts."""
    place = {"root": str(root), "dataset": "made_up", "split": "val"}
    frames = Artefact(stage="frames", fingerprint="a" * 16, **place)
    tracks = Artefact(stage="tracks", fingerprint="b" * 16, **place)
    for name, (truth, result) in pairs.items():
        write_truth(frames.part(name), truth)
        with tracks.part(name).write() as writer:
            writer.write_parquet(TRACKS_FILE, result.tracks.to_table())
    frames.finish(pairs, {})
    tracks.finish(pairs, {})
    return frames, tracks


def test_masks_come_through_the_store(tmp_path: Path) -> None:
    """Read back and scored as if they had never been stored, and kept with their intervals."""
    pairs = {}
    for index, name in enumerate(("0002", "0006")):
        truth, result = random_scene(index, 12)
        pairs[name] = truth_of(truth, 12, name=name), result_of(result, name=name)
    rules = EvaluationConfig(protocol="kitti_mots")
    kept = score(*store(tmp_path, pairs), rules)
    truths = {name: truth for name, (truth, _) in pairs.items()}
    results = {name: result for name, (_, result) in pairs.items()}
    expected = evaluate(build_protocol(rules), truths, results)
    assert read_report(kept).metrics == expected.metrics
    assert {"car/sMOTSA", "pedestrian/IDS"} <= read_intervals(kept).keys()


def test_the_report_comes_back_with_what_it_was_made_of(tmp_path: Path, pairs: Pairs) -> None:
    found = score(*store(tmp_path, pairs), RULES)
    truths = {name: truth for name, (truth, _) in pairs.items()}
    # Tracks are stored in float32.
    results = {
        name: SequenceResult(name=name, tracks=_rounded(result), num_frames=result.num_frames)
        for name, (_, result) in pairs.items()
    }
    expected = evaluate(build_protocol(RULES), truths, results)
    assert read_report(found).to_json() == expected.to_json()
    fields = {
        name: evaluate_sequence(build_protocol(RULES), truths[name], results[name]).fields
        for name in pairs
    }
    assert _plain(parse_fields(read_fields_file(found))) == _plain(fields)
    assert read_intervals(found) == intervals(build_protocol(RULES), fields)
    assert read_intervals(found).keys() >= {"mMOTA", "mIDF1", "HOTA"}


def test_reports_of_the_first_version_are_made_once_more(tmp_path: Path, pairs: Pairs) -> None:
    """They lack what confidence intervals are made of; nothing may expect it in them."""
    frames, tracks = store(tmp_path, pairs)
    first = score(frames, tracks, RULES)
    made = json.loads(Path(first.folder, "manifest.json").read_text())["finished_at"]
    assert score(frames, tracks, RULES).finished_at() == made, "the second time it is found"
    settings = {"protocol": "bdd100k", "box_convention": "inclusive"}
    older = fingerprint("scores", 1, settings, [frames.fingerprint, tracks.fingerprint])
    assert first.fingerprint != older
    assert FIELDS_FILE in {record.name for record in first.part(REPORT_PART).files()}


def test_one_sequence_is_scored_without_intervals(tmp_path: Path, pairs: Pairs) -> None:
    found = score(*store(tmp_path, {"a": pairs["a"]}), RULES)
    assert read_intervals(found) == {}
    assert read_report(found).metrics["OVERALL"]["MOTA"] < 100


def test_other_rules_have_another_name(tmp_path: Path, pairs: Pairs) -> None:
    """HOTA of stock boxes once stood on the same leaderboard as HOTA of inclusive ones."""
    artefacts = store(tmp_path, pairs)
    names = {
        read_report(score(*artefacts, rules)).evaluator["protocol"]
        for rules in (RULES, EvaluationConfig(box_convention="stock"))
    }
    assert names == {"bdd100k", "bdd100k (stock boxes)"}


def test_fields_are_packed_without_loss() -> None:
    fields: Any = {
        "s/1": {"car": {"HOTA": {"AssA": np.linspace(0, 1, 19), "HOTA_TP": np.arange(19)}}},
        "s/2": {"car": {"Clear": {"FP": 3, "IoU_sum": 0.1 + 0.2}}},
    }
    assert _plain(parse_fields(pack_fields(fields))) == _plain(fields)


def _rounded(result: SequenceResult) -> Any:
    columns = {
        **vars(result.tracks),
        "boxes_xyxy": result.tracks.boxes_xyxy.astype(np.float32),
    }
    return type(result.tracks)(**columns)


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    return np.asarray(content, float).tolist()
