"""Lists of sequences and their lengths, as the tools of KITTI MOTS read them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from datasets.reading import LAST_FRAME, check_sequence_name, read_text

_NUMBER: Final = re.compile(r"[0-9]{1,9}")


def read_seqmap(path: Path, *, first_frame: int = 0) -> dict[str, int]:
    """Sequence name -> number of frames, of a list ``<sequence> empty <first> <last>``.

    Names may be any (`0002`, `road0_Record037_1`); the last frame belongs to the sequence.

    Args:
        path: The list.
        first_frame: Number of the first frame in the benchmark's files.

    Raises:
        ValueError: anything broken, or a sequence twice, with file and line.
    """
    lengths: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = line.split()
        if len(fields) != 4 or not all(_NUMBER.fullmatch(field) for field in fields[2:]):
            raise ValueError(f"{where}: {line[:80]!r}, expected <sequence> empty <first> <last>")
        name = check_sequence_name(fields[0], where)
        start, last = int(fields[2]), int(fields[3])
        if not start <= first_frame <= last <= LAST_FRAME:
            raise ValueError(
                f"{where}: frames {start} to {last} of sequence {name}, expected {first_frame} to "
                f"{LAST_FRAME} at most"
            )
        if name in lengths:
            raise ValueError(f"{where}: sequence {name} occurs twice")
        lengths[name] = last - first_frame + 1
    return lengths


def seqmap_lines(num_frames: Mapping[str, int], *, first_frame: int = 0) -> Iterator[str]:
    """Lines of a list of sequences with their newlines, in the order of the mapping.

    >>> list(seqmap_lines({"0002": 233}))
    ['0002 empty 000000 000232\\n']
    """
    for name, length in num_frames.items():
        yield f"{name} empty {first_frame:06d} {first_frame + length - 1:06d}\n"
