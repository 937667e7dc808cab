"""The root of all artefacts on an S3 endpoint: same results, same promises as a local folder."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import fs as pafs

from datasets.registry import BENCHMARKS
from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k
from models.qdtrack.association import TrackerConfig
from models.qdtrack.model import QDTrack
from models.weights import save_weights
from pipeline.associate import associate
from pipeline.evaluate import EvaluationConfig
from pipeline.infer import InferConfig, infer
from pipeline.ingest import DataConfig, ingest
from pipeline.locations import encode_name
from pipeline.model_store import adopt_weights
from pipeline.scores import REPORT_FILE, REPORT_PART, score
from pipeline.store import Artefact, Part, open_artefact
from tests.remote.conftest import BUCKET
from tests.small_model import MODEL

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class World:
    """Raw data and weights of a tiny experiment."""

    data_root: Path
    weights: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    config = SyntheticConfig(num_train=1, num_val=2, num_frames=6, num_stills=0, video_share=0.5)
    write_synthetic_bdd100k(folder / "bdd100k", config)
    torch.manual_seed(0)
    save_weights(folder / "model.safetensors", QDTrack(MODEL))
    return World(folder / "bdd100k", folder / "model.safetensors")


def run_stages(world: World, root: str, num_workers: int) -> list[Artefact]:
    """Every stage from raw files to the report."""
    frames = ingest(BENCHMARKS["bdd100k"], world.data_root, "val", DataConfig(), root)
    weights = adopt_weights(world.weights, root, frames.dataset)
    detections = infer(frames, weights, InferConfig(), num_workers=num_workers)
    tracks = associate(
        detections, TrackerConfig(init_score_thr=0.1, obj_score_thr=0.05), num_workers=num_workers
    )
    scores = score(frames, tracks, EvaluationConfig(), num_workers=num_workers)
    return [frames, weights, detections, tracks, scores]


def contents(artefact: Artefact) -> dict[str, list[str]]:
    """Checksums of the files of every part; `verify` reads them all."""
    for name in artefact.sequences():
        artefact.part(name).verify()
    return {
        name: [file.sha256 for file in artefact.part(name).files()] for name in artefact.sequences()
    }


def test_every_stage_gives_on_s3_what_it_gives_locally(
    ray_session: None, world: World, s3_root: str, tmp_path: Path
) -> None:
    """Promise: where the root lies changes no byte of a result."""
    local, remote = run_stages(world, str(tmp_path), 1), run_stages(world, s3_root, 2)
    for here, there in zip(local, remote, strict=True):
        assert there.fingerprint == here.fingerprint
        assert there.folder.startswith("s3://")
        assert contents(there) == contents(here)
        assert open_artefact(there.folder) == there
    assert sum(part.details()["num_detections"] for part in _parts(local[2])) > 0
    report = Path(local[-1].part(REPORT_PART).folder) / REPORT_FILE
    with remote[-1].part(REPORT_PART).open_input(REPORT_FILE) as stream:
        assert stream.read() == report.read_bytes()


def test_a_second_run_on_s3_does_only_what_is_missing(
    ray_session: None, world: World, s3_root: str
) -> None:
    """Promise: an interrupted ingest goes on where it stopped, on any storage."""
    frames = ingest(BENCHMARKS["bdd100k"], world.data_root, "val", DataConfig(), s3_root)
    client, path = pafs.FileSystem.from_uri(frames.folder)
    lost, kept = frames.sequences()
    before = client.get_file_info(f"{path}/parts/{kept}/manifest.json").mtime_ns
    client.delete_file(f"{path}/manifest.json")
    client.delete_file(f"{path}/parts/{lost}/manifest.json")
    assert frames.missing([lost, kept]) == [lost]
    again = ingest(BENCHMARKS["bdd100k"], world.data_root, "val", DataConfig(), s3_root)
    assert again.sequences() == [lost, kept]
    assert client.get_file_info(f"{path}/parts/{kept}/manifest.json").mtime_ns == before
    assert again.missing([lost, kept]) == []


@pytest.mark.parametrize("name", ["../../outside", "a b+c", "%2E", "x?y#z"])
def test_names_stay_one_component_below_the_root(s3_root: str, name: str) -> None:
    """Promise: no sequence name steps out of the root; URIs decode what is encoded once."""
    artefact = Artefact(root=s3_root, stage="s", dataset="d", split="v", fingerprint="1" * 16)
    with artefact.part(name).write() as writer:
        writer.write_parquet("table.parquet", pa.table({"x": [1, 2]}))
    assert name in artefact.part_names()
    assert artefact.missing([name]) == []
    assert artefact.part(name).read_parquet("table.parquet")["x"].to_pylist() == [1, 2]
    client, path = pafs.FileSystem.from_uri(artefact.folder)
    parts = client.get_file_info(pafs.FileSelector(f"{path}/parts", recursive=False))
    assert encode_name(name) in [info.base_name for info in parts]
    top = client.get_file_info(pafs.FileSelector(BUCKET, recursive=False))
    assert [info.base_name for info in top] == ["some folder"]


def test_an_interrupted_write_on_s3_is_no_part(s3_root: str) -> None:
    """Promise: the manifest comes last; what was begun does not count."""
    artefact = Artefact(root=s3_root, stage="s", dataset="d", split="v", fingerprint="0" * 16)
    with pytest.raises(KeyboardInterrupt), artefact.part("a").write() as writer:
        writer.write_parquet("one.parquet", pa.table({"x": [1]}))
        raise KeyboardInterrupt
    assert artefact.missing(["a"]) == ["a"]


def _parts(artefact: Artefact) -> list[Part]:
    return [artefact.part(name) for name in artefact.sequences()]
