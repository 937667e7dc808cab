"""Windows of encoded frames for training, in the order asked for.

Ray Data reads them (`stream_windows`), or this process does (`read_windows`): the same windows. No
torch here: every Ray Data process imports this module, and would spend seconds on it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import pyarrow as pa

from datasets.pairs import WindowRead
from pipeline.frames import FrameReader
from pipeline.store import Part

Window = dict[int, bytes]
"""Encoded frames of one `WindowRead` by frame index."""

WindowReader = Callable[[Sequence[WindowRead], Sequence[Part]], Iterator[Window]]
"""Gives the windows in the order asked for; the parts are those of all sequences."""

_BLOCK_BYTES: Final = 16 << 20
_STORE_BYTES: Final = 256 << 20
"""Of the object store, for one training worker: each believes that it has the cluster for itself,
and would read ahead until the store is full."""


def read_windows(reads: Sequence[WindowRead], parts: Sequence[Part]) -> Iterator[Window]:
    """The windows, read by this process one at a time."""
    for read in reads:
        reader = FrameReader(parts[read.sequence_index])
        yield dict(_frames_of(reader.read_images(read.start, read.stop)))


def stream_windows(reads: Sequence[WindowRead], parts: Sequence[Part]) -> Iterator[Window]:
    """The windows, read by a Ray Data task ahead of their use.

    One task for all of them: it streams, and waits where the training lags. Ray ends idle processes
    after a second, so a task per window would start a process for most of them, at seconds of CPU
    time each.
    """
    import ray.data

    rows = [
        {
            "folder": parts[read.sequence_index].folder,
            "name": parts[read.sequence_index].name,
            "start": read.start,
            "stop": read.stop,
        }
        for read in reads
    ]
    dataset = ray.data.from_items(rows, override_num_blocks=1).map_batches(
        _read_blocks,
        batch_size=None,
        batch_format="pyarrow",
        # Reading takes next to no CPU. A task that asked for one would wait for ever, without a
        # word, where training workers hold them all.
        num_cpus=0,
    )
    context = dataset.context
    context.target_max_block_size = _BLOCK_BYTES
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=_STORE_BYTES
    )
    batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
    rows_in_order = (row for batch in batches for row in _frames_of(batch))
    for read in reads:
        # Blocks may be cut anywhere, but the order of frames is that of the reads.
        window = dict(islice(rows_in_order, read.stop - read.start))
        assert list(window) == list(range(read.start, read.stop)), (read, list(window))
        yield window


def _read_blocks(block: pa.Table) -> Iterator[pa.Table]:
    """The Ray Data function: windows in, their frames out."""
    for row in block.to_pylist():
        reader = FrameReader(Part(folder=row["folder"], name=row["name"]))
        yield reader.read_images(row["start"], row["stop"])


def _frames_of(images: pa.Table) -> Iterator[tuple[int, bytes]]:
    return zip(images["frame_index"].to_pylist(), images["image"].to_pylist(), strict=True)
