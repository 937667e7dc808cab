"""One tiny experiment, run once by the main job, that the tests of the jobs look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k

RECIPE = "qdtrack_frcnn_r18_synthetic"
TINY = (
    "train.optimizer.epochs=1",
    "train.pairs_per_step=4",
    "train.validation_pairs=4",
    "model.detector.backbone.stem_channels=8",
    "model.detector.pyramid_channels=16",
    "model.embedding.conv_channels=16",
    "model.embedding.embedding_dim=8",
    "association.init_score_thr=0.1",
    "association.obj_score_thr=0.05",
)
"""Overrides with which the main job takes seconds; the scores mean nothing."""


@dataclass(frozen=True)
class Experiment:
    """What the first run of the main job left."""

    data_root: Path
    output_root: Path
    folders: Mapping[str, Path]
    """Artefact folders by stage, as the job printed them."""
    arguments: tuple[str, ...]
    """Of the job, to run it again."""

    @property
    def weights(self) -> Path:
        return self.folders["weights"] / "parts" / "model" / "model.safetensors"


def tiny_arguments(data_root: Path, output_root: Path) -> tuple[str, ...]:
    overrides = [argument for text in TINY for argument in ("--set", text)]
    places = ["--data-root", str(data_root), "--output-root", str(output_root)]
    return ("--recipe", RECIPE, *places, "--num-workers", "2", *overrides)


def printed_folders(output: str, output_root: Path) -> dict[str, Path]:
    """Lines `<stage> <folder under the output root>` of a job's output."""
    pairs = (line.split(maxsplit=1) for line in output.splitlines())
    return {
        pair[0]: Path(pair[1])
        for pair in pairs
        if len(pair) == 2 and pair[1].startswith(f"{output_root}/{pair[0]}")
    }


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    """What makes the recipe tiny, for tests that take it up by another way than the main job."""
    return TINY


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three train and two val sequences of eight frames, four stills."""
    root = tmp_path_factory.mktemp("raw") / "bdd100k"
    write_synthetic_bdd100k(
        root, SyntheticConfig(num_train=3, num_val=2, num_frames=8, num_stills=4)
    )
    return root


@pytest.fixture(scope="session")
def experiment(
    ray_session: None,
    tiny_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Experiment:
    """The main job, run once on the tiny data with two workers."""
    import contextlib
    import io

    from jobs import train_bdd

    output_root = tmp_path_factory.mktemp("out")
    arguments = tiny_arguments(tiny_data, output_root)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert train_bdd.main(arguments) == 0
    folders = printed_folders(output.getvalue(), output_root)
    assert set(folders) == {"frames", "weights", "detections", "tracks"}
    (output_root / "printed.txt").write_text(output.getvalue())
    return Experiment(tiny_data, output_root, folders, arguments)
