"""CPU time and memory of process trees, read from Linux's /proc."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


def process_tree(root: int) -> set[int]:
    """The process and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(*_GONE):
                children.setdefault(int(_stat(entry.name)[1]), []).append(int(entry.name))
    tree, waiting = {root}, [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        tree.update(below)
        waiting += below
    return tree


def cpu_seconds(processes: Iterable[int]) -> float:
    """CPU time that the processes, and children of theirs that ended, have used so far."""
    ticks = 0
    for process in processes:
        with suppress(*_GONE):
            ticks += sum(map(int, _stat(process)[11:15]))
    return ticks * _TICK_S


def memory_bytes(processes: Iterable[int]) -> int:
    """Resident memory, where a page that n processes share counts 1/n for each (PSS)."""
    total = 0
    for process in processes:
        with suppress(*_GONE):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def _stat(process: int | str) -> list[str]:
    """Fields of /proc/PID/stat behind the name, which may itself hold spaces and brackets."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
