"""jobs.infer with the weights of a segmentation: masks, their embeddings, tracks."""

import contextlib
import io
from pathlib import Path

import pytest

from jobs import infer
from models.weights import save_weights
from pipeline.associate import read_detections, read_tracks
from pipeline.store import Artefact, open_artefact
from tests.point_scene import EMBEDDER, make_embedder, make_segmenter, write_scenes


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of both networks' weights."""
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in ("segmenter", "embedder")}
    save_weights(paths["segmenter"], make_segmenter())
    save_weights(paths["embedder"], make_embedder())
    return paths


def run(frames: Artefact, files: dict[str, str], *more: str) -> dict[str, Artefact]:
    """What the job says that it wrote."""
    output = io.StringIO()
    arguments = ["--frames", frames.folder, "--weights", files["segmenter"], "--num-workers", "1"]
    with contextlib.redirect_stdout(output):
        assert infer.main([*arguments, *more]) == 0
    lines = (line.split() for line in output.getvalue().splitlines())
    return {
        line[0]: open_artefact(line[1]) for line in lines if line[0] in ("detections", "tracks")
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session", "one_thread")
def test_masks_are_found_embedded_and_joined(tmp_path: Path, files: dict[str, str]) -> None:
    frames = write_scenes(tmp_path)
    found = run(frames, files, "--embedding-weights", files["embedder"], "--associate")
    assert sorted(found) == ["detections", "tracks"]
    for name in frames.sequences():
        detections = read_detections(found["detections"].part(name))
        assert detections.embeddings.shape == (len(detections), EMBEDDER.embedding_dim)
        tracks = read_tracks(found["tracks"].part(name))
        assert len(tracks) == len(detections)
    truth = run(frames, files, "--truth-boxes", "--embedding-weights", files["embedder"])
    assert truth["detections"].details()["num_detections"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--associate"], "needs --embedding-weights FILE"),
        (["--recipe", "qdtrack_frcnn_r50_bdd100k"], "tracks boxes"),
    ],
)
def test_what_does_not_go_with_masks(files: dict[str, str], more: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer.main(["--frames", "nowhere", "--weights", files["segmenter"], *more])
