"""What MLflow is given of a row."""

import base64
import csv
import io
import json
import zlib
from pathlib import Path

import pytest

from pipeline import runlog_content
from pipeline.leaderboard import ResultRow
from pipeline.provenance import describe_provenance
from pipeline.runlog_content import (
    REFERENCES_FILE,
    finite_numbers,
    provenance_tags,
    row_files,
    row_tags,
    stage_files,
    view_tags,
)


def test_tags_state_what_must_be_stated(full_row: ResultRow) -> None:
    tags = row_tags(full_row)
    for name in ("recipe", "weights", "detections", "evaluator", "revision", "hardware", "date"):
        assert tags[name] == getattr(full_row, name)
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/per_class.json", "type": "table"},
        {"path": "tables/per_sequence.json", "type": "table"},
    ]
    assert all(isinstance(text, str) for text in tags.values())


def test_provenance_has_one_tag_for_each_library() -> None:
    tags = provenance_tags(describe_provenance())
    assert tags["version.trackeval"].startswith("1.")
    assert "versions" not in tags
    assert tags["source_digest"]


def test_tables_are_there_for_people_and_for_the_page(full_row: ResultRow) -> None:
    files = row_files(full_row)
    assert sorted(files) == [
        *("plots/hota.svg", "plots/losses.svg", "tables/per_class.csv", "tables/per_class.json"),
        *("tables/per_sequence.csv", "tables/per_sequence.json"),
    ]
    table = json.loads(files["tables/per_class.json"])
    assert table["columns"] == ["row", "MOTA", "MOTP", "FP"]
    assert table["data"][1] == ["bus", 0.0, None, 26]
    lines = list(csv.reader(io.StringIO(files["tables/per_sequence.csv"].decode())))
    assert len(lines) == 1 + 2 * 4
    assert lines[2] == ["b1c66a42-6f7d68ca: bus", "0.0", "", "26"]
    assert files["plots/hota.svg"].startswith(b"<svg")


def test_a_row_without_tables_or_curves_has_no_files(full_row: ResultRow) -> None:
    empty: dict[str, dict[str, str]] = {
        name: {} for name in ("per_class", "per_sequence", "hota_curves", "loss_curves")
    }
    assert row_files(ResultRow.from_dict({**full_row.to_dict(), **empty})) == {}


def test_the_saved_view_sorts_by_the_deciding_metric(full_row: ResultRow) -> None:
    (text,) = view_tags(full_row).values()
    assert len(text) < 5000, "MLflow's limit for a tag"
    view = json.loads(text)
    packed = view["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`mMOTA`", False)
    assert state["selectedColumns"][:3] == ["metrics.`mMOTA`", "metrics.`MOTA`", "metrics.`FP`"]
    assert "tags.`recipe`" in state["selectedColumns"]


def test_numbers_without_a_value_are_left_out() -> None:
    numbers = {"a": 1, "b": None, "c": float("nan"), "d": float("-inf"), "e": 0.123456789}
    assert finite_numbers(numbers) == {"a": 1.0, "e": 0.123456789}
    assert finite_numbers(numbers, 4) == {"a": 1.0, "e": 0.1235}


def test_small_files_are_copied_and_large_ones_are_referred_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog_content, "MAX_COPIED_BYTES", 10)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"0123456789")
    large.write_bytes(b"0123456789+")
    folder = tmp_path / "stage"
    folder.mkdir()
    stage_files(
        folder,
        {"a/b.txt": b"text", "s.bin": small, "l.bin": large, "weights": "s3://bucket/weights"},
    )
    references = json.loads((folder / REFERENCES_FILE).read_bytes())
    assert references == {
        "l.bin": {"location": str(large), "size": 11},
        "weights": {"location": "s3://bucket/weights"},
    }
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    assert sorted(found) == ["a/b.txt", REFERENCES_FILE, "s.bin"]
    assert found["s.bin"].read_bytes() == b"0123456789"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_artefact_paths_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leaves its folder"):
        stage_files(tmp_path / "stage", {name: b""})
    assert not list(tmp_path.rglob("outside"))
