"""Ingest: benchmark files and videos become the frames artefact, one Ray Data row per segment.

Images are copied as they are; decoded video is encoded once. What is broken is named and counted,
and the rest goes on: a frame that cannot be decoded keeps its row with an empty image, so that
frame numbers, truth and submissions stay complete; a sequence that cannot be read at all is left
out. With `strict` the first problem stops instead.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from datasets.registry import BENCHMARKS, Benchmark
from datasets.schema import Problem, SequenceSource
from models.config_io import config_to_dict
from pipeline.ingest_segment import Outcome, Segment, cut_segments, group_stills, ingest_segment
from pipeline.progress import Progress
from pipeline.store import Artefact, fingerprint, fingerprint_files

logger = logging.getLogger(__name__)

STAGE: Final = "frames"
VERSION: Final = 1
"""Raised when the code changes what is stored."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which benchmark, and how its raw files become stored frames."""

    benchmark: str = "bdd100k"
    """Name in the registry of benchmarks: its reader, its classes."""
    dataset: str = "bdd100k"
    """Name of the data in artefacts and leaderboards; another one than the benchmark's for a
    subset or for synthetic data, so that rows are only compared where they may be."""
    train_splits: tuple[str, ...] = ("train", "det_train")
    """Splits to train on; those that the data set lacks are left out, with a message."""
    evaluation_split: str = "val"
    """Split to infer, score and rank on."""
    label_stride: int = 6
    """Video frames from one labelled frame to the next, where frames come from raw video."""
    label_phase: int = 0
    """Video frame of the first label, where frames come from raw video."""
    jpeg_quality: int = 95
    """Quality at which decoded video frames are encoded, 1 to 100."""

    def __post_init__(self) -> None:
        if self.benchmark not in BENCHMARKS:
            names = ", ".join(sorted(BENCHMARKS))
            raise ValueError(f"benchmark is {self.benchmark!r}, expected one of {names}")
        if not self.train_splits:
            raise ValueError("train_splits is empty, expected the name of at least one split")
        if self.label_stride < 1 or not self.label_phase >= 0:
            raise ValueError(
                f"label_stride is {self.label_stride} and label_phase {self.label_phase}, "
                "expected a stride of at least 1 and a phase of at least 0"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}, expected 1 to 100")


class IngestError(ValueError):
    """Under `strict`: the first broken file. Otherwise: nothing could be read, or not stored."""


class NothingFoundError(IngestError):
    """The split has no raw files here."""


def ingest(
    benchmark: Benchmark,
    data_root: Path,
    split: str,
    config: DataConfig,
    root: str,
    *,
    strict: bool = False,
) -> Artefact:
    """Store the frames and annotations of one split; does only what is missing.

    Ray must be connected unless the artefact is complete already.

    Returns:
        The finished artefact; its details hold `problems` and counts.

    Raises:
        NothingFoundError: the split has no raw files.
        IngestError: a problem under `strict`, be it of an earlier run; no sequence that can be
            read; or the storage failed.
    """
    sources, problems = benchmark.list_sequences(data_root, split)
    if not sources:
        found = "; ".join(f"{p.where}: {p.what}" for p in problems[:3])
        raise NothingFoundError(
            f"{benchmark.name}/{split}: no sequence under {data_root} ({found or 'nothing found'});"
            " check --data-root with `python -m jobs.doctor`"
        )
    sources = [_with_options(source, config) for source in group_stills(sources)]
    if strict and problems:
        raise _stop(problems[0])
    artefact = _artefact(benchmark, data_root, split, config, root, sources)
    if not artefact.is_complete():
        _ingest_missing(artefact, sources, problems, config, strict)
    if strict and (stored := report(artefact)):  # of a run that was not strict
        raise _stop(stored[0])
    return artefact


def report(artefact: Artefact) -> list[Problem]:
    """What was broken when the artefact was made."""
    return [Problem(**problem) for problem in artefact.details()["problems"]]


def _artefact(
    benchmark: Benchmark,
    data_root: Path,
    split: str,
    config: DataConfig,
    root: str,
    sources: Sequence[SequenceSource],
) -> Artefact:
    files = {Path(path) for source in sources for path in _raw_files(source)}
    settings: dict[str, Any] = {"benchmark": benchmark.name, "split": split}
    if any(source.video for source in sources):
        plain = config_to_dict(config)
        names = ("label_stride", "label_phase", "jpeg_quality")
        settings |= {name: plain[name] for name in names}
    return Artefact(
        root=root,
        stage=STAGE,
        dataset=config.dataset,
        split=split,
        fingerprint=fingerprint(STAGE, VERSION, settings, [fingerprint_files(files, data_root)]),
    )


def _raw_files(source: SequenceSource) -> Iterator[str]:
    yield from source.images
    if source.video:
        yield source.video
    if source.labels:
        labels = Path(source.labels)
        # A folder is one label file per frame.
        yield from map(str, labels.iterdir()) if labels.is_dir() else [source.labels]


def _with_options(source: SequenceSource, config: DataConfig) -> SequenceSource:
    if source.video is None:
        return source
    options = {"label_stride": config.label_stride, "label_phase": config.label_phase}
    return replace(source, options={**source.options, **options})


def _ingest_missing(
    artefact: Artefact,
    sources: Sequence[SequenceSource],
    problems: list[Problem],
    config: DataConfig,
    strict: bool,
) -> None:
    missing = set(artefact.missing(source.name for source in sources))
    todo = [source for source in sources if source.name in missing]
    lost: set[str] = set()
    arrived: dict[str, list[Outcome]] = {}
    with Progress(f"ingest {artefact.dataset}/{artefact.split}", len(todo), "sequences") as bar:
        for outcome in _stream(artefact, todo, config):
            if strict and outcome.problems:
                raise _stop(outcome.problems[0])
            outcomes = arrived.setdefault(outcome.sequence, [])
            outcomes.append(outcome)
            if len(outcomes) < outcome.num_segments:
                continue
            if any(o.is_lost for o in outcomes):
                lost.add(outcome.sequence)
                problems = [*problems, *(p for o in outcomes for p in o.problems)]
            else:
                _finish_part(artefact, sorted(outcomes, key=lambda o: o.segment))
            del arrived[outcome.sequence]
            bar.advance(note=outcome.sequence)
    _finish(artefact, [s.name for s in sources if s.name not in lost], problems, config)


def _stream(
    artefact: Artefact, sources: Sequence[SequenceSource], config: DataConfig
) -> Iterator[Outcome]:
    """Outcomes of all segments as they arrive from Ray Data, in any order."""
    import ray.data

    segments = [segment for source in sources for segment in cut_segments(source)]
    if not segments:
        return
    rows = [{"segment": segment} for segment in segments]
    # One block a row: a task holds one row group of one segment, whatever the size of the input.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _SegmentTask(artefact, config.jpeg_quality), num_cpus=1
    )
    for row in dataset.iter_rows():
        if isinstance(row["outcome"], IngestError):
            raise row["outcome"]
        yield row["outcome"]


class _SegmentTask:
    """The Ray Data function: one row in, one outcome out."""

    def __init__(self, artefact: Artefact, jpeg_quality: int) -> None:
        self._artefact = artefact
        self._jpeg_quality = jpeg_quality

    def __call__(self, row: dict[str, Segment]) -> dict[str, Outcome | IngestError]:
        segment = row["segment"]
        try:
            return {"outcome": ingest_segment(self._artefact, segment, self._jpeg_quality)}
        except OSError as error:
            # As a value: raised here, it would reach the user inside two errors of Ray's.
            name = segment.source.name
            place = self._artefact.part(name).folder
            return {"outcome": IngestError(f"sequence {name!r}, stored in {place}: {error}")}


def _finish_part(artefact: Artefact, outcomes: Sequence[Outcome]) -> None:
    """Write the manifest over the files of all segments."""
    first = outcomes[0]
    with artefact.part(first.sequence).write() as writer:
        writer.adopt(record for outcome in outcomes for record in outcome.files)
        writer.details = {
            **first.details,
            "num_frames": sum(outcome.num_frames for outcome in outcomes),
            "broken_frames": [f for outcome in outcomes for f in outcome.broken_frames],
            "problems": [vars(p) for outcome in outcomes for p in outcome.problems],
        }


def _finish(
    artefact: Artefact, sequences: list[str], problems: Sequence[Problem], config: DataConfig
) -> None:
    if not sequences:
        first = problems[0]
        raise IngestError(
            f"{artefact.dataset}/{artefact.split}: none of the sequences could be read; the first "
            f"says: {first.where}: {first.what}"
        )
    parts = [artefact.part(name).details() for name in sequences]
    everything = [vars(p) for p in problems] + [p for part in parts for p in part["problems"]]
    for problem in everything:
        logger.warning("%s: %s", problem["where"], problem["what"])
    details = {
        "benchmark": config.benchmark,
        "problems": everything,
        "num_frames": sum(part["num_frames"] for part in parts),
        "num_broken_frames": sum(len(part["broken_frames"]) for part in parts),
    }
    artefact.finish(sequences, details)


def _stop(problem: Problem) -> IngestError:
    return IngestError(f"{problem.where}: {problem.what} (stopped because of --strict)")
