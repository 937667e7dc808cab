"""Videos of stored tracks that somebody asks for: whole sequences, or clips of the worst errors.

Files lie where the user says, which only this machine may see, so they are drawn in this process.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datasets.registry import BENCHMARKS
from pipeline.errors import Cause, Error, find_errors, worst_errors
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.locations import encode_name
from pipeline.overlay import TruthStyle, render_error, render_tracks
from pipeline.progress import Progress
from pipeline.scores import load_pair
from pipeline.store import Artefact

WHOLE: tuple[int, int | None] = (0, None)
"""The range of all frames."""


def render_sequences(
    frames: Artefact,
    tracks: Artefact,
    folder: Path,
    *,
    sequences: Sequence[str] | None = None,
    truth: TruthStyle | None = None,
    frame_range: tuple[int, int | None] = WHOLE,
    force: bool = False,
) -> Iterator[Path]:
    """Write one video for each sequence, NAME.mp4.

    Args:
        frames: finished artefact that the tracks are of.
        tracks: finished artefact.
        folder: of the videos; made if need be.
        sequences: names, None for all.
        truth: whether and where true boxes are drawn.
        frame_range: first frame and the one to end before, None for all that follow.
        force: replace videos of the same name.

    Yields:
        The files as they are finished, in order of the sequences' names.

    Raises:
        ValueError: an unknown sequence, a file that exists, no truth where it is asked for, or a
            range outside a sequence.
    """
    names = _choose(tracks, sequences)
    paths = {name: folder / f"{encode_name(name)}.mp4" for name in names}
    _check_free(paths.values(), force=force)
    classes = BENCHMARKS[frames.details()["benchmark"]].classes
    with Progress(f"render {tracks.dataset}/{tracks.split}", len(paths), "sequences") as progress:
        for name, path in paths.items():
            render_tracks(
                frames.part(name),
                tracks.part(name),
                classes,
                path,
                truth=truth,
                frame_range=frame_range,
            )
            progress.advance(note=name)
            yield path


def render_errors(
    frames: Artefact,
    tracks: Artefact,
    folder: Path,
    cause: Cause,
    *,
    limit: int,
    sequences: Sequence[str] | None = None,
    force: bool = False,
) -> Iterator[Path]:
    """Write a clip of each of the worst errors of a cause, CAUSE-NUMBER-NAME-FRAMES.mp4.

    Args:
        frames: finished artefact that the tracks are of, with labels.
        tracks: finished artefact.
        folder: of the videos; made if need be.
        cause: why a box is wrong, or what happened to an identity.
        limit: clips at the most.
        sequences: names, None for all.
        force: replace videos of the same name.

    Yields:
        The files as they are finished, the error of most boxes first; none where there is no such
        error.

    Raises:
        ValueError: an unknown sequence, one without truth, or a file that exists.
    """
    protocol = build_protocol(EvaluationConfig(protocol=frames.details()["benchmark"]))
    errors = {
        name: find_errors(protocol, *load_pair((frames.part(name), tracks.part(name)))).errors
        for name in _choose(tracks, sequences)
    }
    worst = worst_errors(errors, cause)[:limit]
    paths = [
        folder / _clip_name(number, name, error) for number, (name, error) in enumerate(worst, 1)
    ]
    _check_free(paths, force=force)
    for (name, error), path in zip(worst, paths, strict=True):
        render_error(frames.part(name), tracks.part(name), protocol.classes, error, path)
        yield path


def _choose(tracks: Artefact, sequences: Sequence[str] | None) -> list[str]:
    known = tracks.sequences()
    for name in sequences or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
            raise ValueError(
                f"{tracks.folder}: no sequence {name!r} among its {len(known)}; the nearest names "
                f"are {', '.join(near)}"
            )
    return sorted(set(sequences or known))


def _check_free(paths: Iterable[Path], *, force: bool) -> None:
    for path in paths:
        if path.exists() and not force:
            raise ValueError(f"{path}: exists already; choose another --out or use --force")


def _clip_name(number: int, name: str, error: Error) -> str:
    cause = error.cause.replace(" ", "-")
    return f"{cause}-{number:03d}-{encode_name(name)}-{error.first_frame}-{error.last_frame}.mp4"
