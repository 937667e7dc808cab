"""One JSON list read record by record, whatever lies around it and wherever a chunk ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets import json_stream
from datasets.json_stream import iterate_records, read_record

RECORDS: list[Any] = [
    {"name": "a.jpg", "labels": [{"id": "1", "box2d": {"x1": 0.5}}]},
    {"name": "straße-😀.jpg", "labels": None, "text": 'brackets ] } and "quotes" \\'},
    {"name": "x" * 300},
    12345,
    [],
]


def layouts() -> dict[str, str]:
    plain = json.dumps(RECORDS, ensure_ascii=False)
    spaced = json.dumps(RECORDS, ensure_ascii=False, indent=3)
    return {
        "list": plain,
        "spaced list": f"\n {spaced} \n",
        "object": f'{{"frames": {plain}, "config": {{"frames": [1]}}}}',
        "object, list last": f'{{"version": 1.25, "config": {{"frames": [1]}}, "frames":{plain}}}',
    }


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("layout", layouts())
def test_records_and_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", chunk)
    path = tmp_path / "x.json"
    path.write_text(layouts()[layout], encoding="utf-8")
    found = list(iterate_records(path, "frames"))
    assert [record for _, _, record in found] == RECORDS
    data = path.read_bytes()
    for offset, length, record in found:
        assert json.loads(data[offset : offset + length]) == record
        assert read_record(path, offset, length) == record


@pytest.mark.parametrize("text", ["[]", '{"frames": []}', ' { "a" : 1 , "frames" : [ ] } '])
def test_empty_lists(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert list(iterate_records(path, "frames")) == []


@pytest.mark.parametrize(
    ("text", "byte"),
    [
        ("", 0),
        ("5", 0),
        ("{}", 1),
        ('{"a": 1}', 8),
        ('{"frames": 5}', 11),
        ("[1, 2", 5),
        ('[{"a": 1}, {"b', 11),
        ("[1 2]", 3),
        ("[1,]", 3),
    ],
)
def test_broken_files_name_the_byte(tmp_path: Path, text: str, byte: int) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"x\.json, byte {byte}:"):
        list(iterate_records(path, "frames"))


def test_memory_is_bounded_by_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A missing quote must not pull the rest of a huge file into memory.
    monkeypatch.setattr(json_stream, "_LARGEST_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 100)
    path = tmp_path / "x.json"
    path.write_text('[{"a": "' + "b" * 100_000)
    with pytest.raises(ValueError, match=r"a record of more than 1\d{3} bytes"):
        list(iterate_records(path, "frames"))


def test_a_place_that_holds_no_record_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}]')
    with pytest.raises(ValueError, match="run again"):
        read_record(path, 2, 4)
