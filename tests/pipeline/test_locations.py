"""Names stay inside the root, and the root is where it was asked for."""

from pathlib import Path

import pytest

from pipeline.locations import decode_name, encode_name, resolve_root


@pytest.mark.parametrize(
    "name",
    ["b1c66a42-6f7d68ca", "..", ".", "../../etc/passwd", "a/b", "a b", "ä", "%2E", ".hidden"],
)
def test_names_become_one_component_inside_the_root_and_come_back(
    name: str, tmp_path: Path
) -> None:
    encoded = encode_name(name)
    assert "/" not in encoded
    assert not encoded.startswith(".")
    assert (tmp_path / encoded).resolve().parent == tmp_path.resolve()
    assert decode_name(encoded) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "an empty name"), ("x" * 300, "takes 300 bytes"), ("ä" * 40, "takes 240 bytes")],
)
def test_names_that_cannot_be_files_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_name(name)


def test_the_root_is_never_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUASAR_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_root(None) == str(tmp_path / "quasar")
    monkeypatch.setenv("QUASAR_ROOT", "s3://bucket/runs/")
    assert resolve_root(None) == "s3://bucket/runs"
    assert Path(resolve_root("relative")).is_absolute()
