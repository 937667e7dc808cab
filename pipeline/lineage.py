"""From which artefacts a result was made, and whether two of them belong together."""

from dataclasses import replace
from typing import Final

from pipeline.store import Artefact, StoreError, find_artefacts, open_artefact

_MADE_BY: Final = {
    "frames": "jobs.ingest",
    "detections": "jobs.infer",
    "tracks": "jobs.infer --associate or jobs.train_bdd",
}


def open_stage(folder: str, stage: str) -> Artefact:
    """The artefact whose folder a user names, of the stage that is wanted there.

    Raises:
        StoreError: no finished artefact, or one of another stage.
    """
    artefact = open_artefact(folder)
    if artefact.stage != stage:
        raise StoreError(
            f"{folder}: holds {artefact.stage}, expected {stage}; name a folder that "
            f"{_MADE_BY[stage]} printed"
        )
    return artefact


def detections_of(tracks: Artefact) -> Artefact:
    """The detections that were joined into the tracks; whether they are still there is not asked.

    Raises:
        StoreError: the tracks did not finish, or do not say what they were made from.
    """
    return replace(tracks, stage="detections", fingerprint=_input_of(tracks, "detections"))


def frames_of(tracks: Artefact) -> Artefact:
    """The frames that the tracks were made from, by way of their detections.

    Tracks merged from several detections name their frames themselves.

    Raises:
        StoreError: the tracks or their detections did not finish or are gone.
    """
    origin = tracks if "frames" in tracks.details() else detections_of(tracks)
    return replace(tracks, stage="frames", fingerprint=_input_of(origin, "frames"))


def weights_of(detections: Artefact) -> Artefact | None:
    """The weights of the network that made the detections; None where the store lacks them."""
    name = detections.details().get("weights")
    found = find_artefacts(detections.root, "weights", name) if name is not None else []
    return found[0] if found else None


def check_belongs(frames: Artefact, tracks: Artefact) -> None:
    """Refuse frames that are not those of the tracks.

    Raises:
        StoreError: another data set, split or set of sequences, or other frames of the same name;
            says which and what to name in their place.
    """
    for what, found, expected in (
        ("data set", frames.dataset, tracks.dataset),
        ("split", frames.split, tracks.split),
    ):
        if found != expected:
            raise StoreError(
                f"{frames.folder}: frames of the {what} {found!r}, but {tracks.folder} are tracks "
                f"of {expected!r}; name the frames that the tracks were made from"
            )
    if frames.sequences() != tracks.sequences():
        raise StoreError(
            f"{tracks.folder} holds {len(tracks.sequences())} sequences and {frames.folder} "
            f"{len(frames.sequences())}, not the same ones: the tracks are of other frames"
        )
    if "frames" not in tracks.details() and detections_of(tracks).manifest() is None:
        return
    origin = frames_of(tracks)
    if origin.fingerprint != frames.fingerprint:
        raise StoreError(
            f"{frames.folder}: not the frames that the tracks were made from, which are "
            f"{origin.folder}; name those"
        )


def check_made_from(frames: Artefact, detections: Artefact) -> None:
    """Refuse detections that were not made from these frames.

    Raises:
        StoreError: another data set or split, or other frames of the same name; says which.
    """
    for what, found, expected in (
        ("data set", detections.dataset, frames.dataset),
        ("split", detections.split, frames.split),
        ("frames", _input_of(detections, "frames"), frames.fingerprint),
    ):
        if found != expected:
            raise StoreError(
                f"{detections.folder}: detections of the {what} {found!r}, but {frames.folder} is "
                f"of {expected!r}; name the frames that the detections were made from"
            )
    missing = sorted(set(frames.sequences()) ^ set(detections.sequences()))
    if missing:
        raise StoreError(
            f"{detections.folder} and {frames.folder} do not hold the same sequences: "
            f"{missing[0]!r} is in one of them only; run jobs.infer again"
        )


def _input_of(artefact: Artefact, stage: str) -> str:
    name = artefact.details().get(stage)
    if not isinstance(name, str):
        raise StoreError(
            f"{artefact.folder}: does not say which {stage} it was made from; make it again"
        )
    return name
