"""Promises of the artefact store: finished or absent, damaged means rebuilt, names stay inside."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import store
from pipeline.locations import encode_name
from pipeline.store import Artefact, StoreError, fingerprint, open_artefact


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    return Artefact(
        root=str(tmp_path), stage="tracks", dataset="bdd100k", split="val", fingerprint="0" * 16
    )


def write(artefact: Artefact, name: str, rows: int = 3) -> None:
    with artefact.part(name).write() as writer:
        writer.write_parquet("table.parquet", pa.table({"x": list(range(rows))}))
        writer.details["rows"] = rows


def test_a_part_is_there_only_after_its_writer_left_without_error(artefact: Artefact) -> None:
    with (
        pytest.raises(RuntimeError),
        artefact.part("a").write() as writer,
        writer.open_file("half.bin") as stream,
    ):
        stream.write(b"half")
        raise RuntimeError
    assert not artefact.part("a").is_valid()
    assert not list(Path(artefact.part("a").folder).glob("*"))  # not even a temporary file
    write(artefact, "a")
    assert artefact.part("a").is_valid()
    assert artefact.part("a").details() == {"rows": 3}


def test_only_missing_and_damaged_parts_are_left_to_do(artefact: Artefact) -> None:
    for name in ("a", "b", "c"):
        write(artefact, name)
    shard = Path(artefact.part("b").folder) / "table.parquet"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert artefact.missing(["d", "c", "b", "a"]) == ["b", "d"]
    with pytest.raises(StoreError, match="cut short"):
        artefact.part("b").read_parquet("table.parquet")


def test_complete_means_finished_and_still_whole(artefact: Artefact) -> None:
    for name in ("a", "b"):
        with artefact.part(name).write() as writer:
            writer.write_parquet("one.parquet", pa.table({"x": [1]}))
    assert not artefact.is_complete()
    artefact.finish(["a", "b"], {})
    assert artefact.is_complete()
    file = Path(artefact.part("b").folder) / "one.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    assert not artefact.is_complete()
    with artefact.part("b").write():
        pass
    assert artefact.is_complete()
    shutil.rmtree(artefact.part("a").folder)
    assert not artefact.is_complete()


def test_another_version_of_the_columns_is_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fingerprint("infer", 1, {})
    monkeypatch.setattr(store, "SCHEMA_VERSION", store.SCHEMA_VERSION + 1)
    assert fingerprint("infer", 1, {}) != before


def test_rewriting_a_part_withdraws_the_old_manifest_first(artefact: Artefact) -> None:
    write(artefact, "a")
    with pytest.raises(RuntimeError), artefact.part("a").write():
        raise RuntimeError
    assert not artefact.part("a").is_valid()


def test_changed_content_of_equal_size_is_found_by_verify(artefact: Artefact) -> None:
    write(artefact, "a")
    shard = Path(artefact.part("a").folder) / "table.parquet"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="checksum"):
        artefact.part("a").verify()


def test_a_manifest_that_is_not_json_counts_as_absent(artefact: Artefact) -> None:
    write(artefact, "a")
    (Path(artefact.part("a").folder) / "manifest.json").write_text('{"files": [')
    assert artefact.missing(["a"]) == ["a"]


def test_an_unfinished_artefact_says_so_and_a_finished_one_opens_by_folder(
    artefact: Artefact,
) -> None:
    write(artefact, "a")
    with pytest.raises(StoreError, match="did not finish"):
        artefact.sequences()
    with pytest.raises(StoreError, match="no finished artefact"):
        open_artefact(artefact.folder)
    artefact.finish(["a"], {"frames": 1})
    assert open_artefact(artefact.folder + "/") == artefact
    assert artefact.sequences() == ["a"]
    assert artefact.details() == {"frames": 1}


def test_fingerprints_depend_on_content_not_on_key_order() -> None:
    base = fingerprint("infer", 1, {"a": 1, "b": 2}, ["x"])
    assert base == fingerprint("infer", 1, {"b": 2, "a": 1}, ["x"])
    others = [
        fingerprint("infer", 2, {"a": 1, "b": 2}, ["x"]),
        fingerprint("train", 1, {"a": 1, "b": 2}, ["x"]),
        fingerprint("infer", 1, {"a": 1, "b": 3}, ["x"]),
        fingerprint("infer", 1, {"a": 1, "b": 2}, ["y"]),
    ]
    assert len({base, *others}) == 5


def test_queries_of_uris_stay_behind_the_path() -> None:
    root = "s3://bucket/q?endpoint_override=localhost:1&scheme=http"
    artefact = Artefact(root=root, stage="s", dataset="d", split="v", fingerprint="f")
    assert artefact.folder == "s3://bucket/q/s/d/v/f?endpoint_override=localhost:1&scheme=http"


@pytest.mark.parametrize("name", ["../../outside", "a b+c", "%2E", "x?y#z"])
def test_names_below_a_uri_are_encoded_once_more_than_the_uri_decodes(
    name: str, tmp_path: Path
) -> None:
    """URIs decode what is percent-encoded: `%2E.` would step out of the root again."""
    artefact = Artefact(
        root=f"file://{tmp_path}/root", stage="s", dataset="d", split="v", fingerprint="f"
    )
    write(artefact, name)
    artefact.finish([name], {})
    assert artefact.missing([name]) == []
    folder = tmp_path / "root" / "s" / "d" / "v" / "f" / "parts" / encode_name(name)
    assert (folder / "manifest.json").is_file()
    assert open_artefact(artefact.folder) == artefact
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_local_folder_may_have_a_question_mark_in_its_name(tmp_path: Path) -> None:
    root = str(tmp_path / "what?" / "now")
    artefact = Artefact(root=root, stage="s", dataset="d", split="v", fingerprint="f")
    write(artefact, "a")
    artefact.finish(["a"], {})
    assert open_artefact(artefact.folder) == artefact


def test_manifests_are_readable_json(artefact: Artefact) -> None:
    write(artefact, "a")
    text = (Path(artefact.part("a").folder) / "manifest.json").read_text()
    assert json.loads(text)["files"][0]["num_rows"] == 3
