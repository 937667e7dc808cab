"""Checkpoints of a training on any storage: written whole, found again, checked before use.

Ray Train uploads a folder file by file and keeps a register of what it uploaded; a killed process
can cut off either. So a checkpoint says how long it is and what its checksum is, and the newest one
that agrees with itself is used, whatever the register says.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import torch

from pipeline.locations import join_location, open_filesystem
from pipeline.training_loop import CHECKPOINT_VERSION, Checkpoint

logger = logging.getLogger(__name__)

STATE_FILE: Final = "state.pt"
SUMMARY_FILE: Final = "summary.json"
NUM_KEPT: Final = 2

_PREFIX: Final = "checkpoint_"
"""Of the folders that Ray Train makes."""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and its summary into an empty local folder."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    state = buffer.getbuffer()
    (folder / STATE_FILE).write_bytes(state)
    summary = {
        "version": CHECKPOINT_VERSION,
        "step": checkpoint["schedule"]["step"],
        "size": state.nbytes,
        "sha256": hashlib.sha256(state).hexdigest(),
    }
    (folder / SUMMARY_FILE).write_text(json.dumps(summary))


def newest_checkpoint(location: str) -> str | None:
    """Name of the valid checkpoint with the most steps under `location`; None without any.

    Args:
        location: path or URI of the folder that holds a folder per checkpoint.
    """
    for _, name in _by_age(location):
        if _is_whole(location, name):
            return name
        logger.warning(
            "%s/%s: an incomplete or damaged checkpoint; the one before it is used", location, name
        )
    return None


def load_checkpoint(location: str, name: str) -> Checkpoint:
    """Read a checkpoint without running any code it may hold, tensors on the CPU."""
    with _open(join_location(location, name, STATE_FILE)) as stream:
        buffer = io.BytesIO(stream.read())
    checkpoint: Checkpoint = torch.load(buffer, map_location="cpu", weights_only=True)
    return checkpoint


def remove_old_checkpoints(location: str) -> None:
    """Delete all but the newest ones: Ray Train forgets about those of an earlier, killed job."""
    kept = 0
    for _, name in _by_age(location):
        if kept < NUM_KEPT and _is_whole(location, name):
            kept += 1
            continue
        filesystem, path = open_filesystem(join_location(location, name))
        with suppress(FileNotFoundError):
            filesystem.delete_dir(path)


def _by_age(location: str) -> Iterator[tuple[int, str]]:
    """(steps, name) of every folder, most steps first; those without a summary last."""
    filesystem, path = open_filesystem(location)
    selector = pafs.FileSelector(path, recursive=False, allow_not_found=True)
    folders = [
        info.base_name
        for info in filesystem.get_file_info(selector)
        if info.type == pafs.FileType.Directory and info.base_name.startswith(_PREFIX)
    ]
    yield from sorted(
        ((_summary(location, name).get("step", -1), name) for name in folders), reverse=True
    )


def _is_whole(location: str, name: str) -> bool:
    summary = _summary(location, name)
    if summary.get("version") != CHECKPOINT_VERSION:
        return False
    try:
        with _open(join_location(location, name, STATE_FILE)) as stream:
            state = stream.read()
    except FileNotFoundError:
        return False
    found = {"size": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    return found.items() <= summary.items()


def _summary(location: str, name: str) -> dict[str, Any]:
    """Empty where the summary is missing or cut short."""
    try:
        with _open(join_location(location, name, SUMMARY_FILE)) as stream:
            summary = json.loads(stream.read())
    except (FileNotFoundError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _open(location: str) -> pa.NativeFile:
    filesystem, path = open_filesystem(location)
    return filesystem.open_input_stream(path)
