"""Lists of sequences and their lengths."""

from pathlib import Path

import pytest

from datasets.seqmap import read_seqmap, seqmap_lines


def test_the_last_frame_belongs_to_the_sequence(tmp_path: Path) -> None:
    path = tmp_path / "val.seqmap"
    path.write_text("0002 empty 000000 000232\n\nroad0_Record037_1 empty 000000 000009\n")
    assert read_seqmap(path) == {"0002": 233, "road0_Record037_1": 10}


@pytest.mark.parametrize("first", ["000000", "000001"])
def test_frames_may_count_from_one(tmp_path: Path, first: str) -> None:
    path = tmp_path / "val.seqmap"
    path.write_text(f"0002 empty {first} 000600\n")
    assert read_seqmap(path, first_frame=1) == {"0002": 600}


@pytest.mark.parametrize("first_frame", [0, 1])
def test_what_is_written_is_read_back(tmp_path: Path, first_frame: int) -> None:
    lengths = {"b": 3, "a": 154}
    path = tmp_path / "train.seqmap"
    path.write_text("".join(seqmap_lines(lengths, first_frame=first_frame)))
    found = read_seqmap(path, first_frame=first_frame)
    assert list(found.items()) == list(lengths.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0002 empty 000000", "'0002 empty 000000', expected <sequence> empty <first> <last>"),
        ("name", "'name', expected"),
        ("0002 empty 0 1 2", "expected <sequence>"),
        ("0002 empty 0 x", "expected <sequence>"),
        ("0002 empty 0 -1", "expected <sequence>"),
        ("0002 empty 0 1.0", "expected <sequence>"),
        ("0002 empty 1 5", "frames 1 to 5 of sequence 0002, expected 0 to 999999"),
        ("0002 empty 0 1000000", "frames 0 to 1000000"),
        ("../x empty 0 1", "name of a sequence"),
        ("a empty 0 1", "sequence a occurs twice"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "val.seqmap"
    path.write_text(f"a empty 0 5\n{text}\n")
    with pytest.raises(ValueError, match=message) as error:
        read_seqmap(path)
    assert str(error.value).startswith(f"{path}, line 2: ")


def test_an_absent_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val\.seqmap"):
        read_seqmap(tmp_path / "val.seqmap")
