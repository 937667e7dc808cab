"""Damaged files at the border of every job: one clear line, nothing half-finished, nothing lost."""

import json
import os
import pickle
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import command, evaluate, export, infer, ingest, track, train_bdd
from pipeline.frames import FrameReader, read_truth
from pipeline.store import Artefact, open_artefact
from tests.faults.conftest import (
    NUM_FRAMES,
    Stages,
    StartJob,
    error_line,
    infer_arguments,
    ingest_arguments,
)

pytestmark = pytest.mark.slow


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def frames_of(root: Path) -> Artefact:
    (manifest,) = (root / "frames").glob("*/*/*/manifest.json")
    return open_artefact(str(manifest.parent))


def only(root: Path, pattern: str) -> Path:
    """The first of the files; sequences are processed in this order."""
    return min(root.rglob(pattern))


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


class TestIngest:
    def test_damage_of_every_kind_is_named_and_the_rest_goes_on(
        self, ray_session: None, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Promise: a cut JPEG keeps its row without an image; an unreadable label file leaves its
        sequence out; both are named, and the third sequence is whole."""
        first, second, third = sorted((data_root / "images/track/val").iterdir())
        image = sorted(first.iterdir())[2]
        cut_in_half(image)
        label_file = data_root / f"labels/box_track_20/val/{second.name}.json"
        cut_in_half(label_file)
        root = tmp_path / "root"
        assert command.run(ingest.main, ingest_arguments(data_root, root)) == 0
        printed = capsys.readouterr()
        assert image.name in printed.out + printed.err
        assert label_file.name in printed.out + printed.err
        frames = frames_of(root)
        assert frames.sequences() == [first.name, third.name]
        kept = [
            frame for chunk in FrameReader(frames.part(first.name)).iterate() for frame in chunk
        ]
        assert [bool(frame.image) for frame in kept] == [True, True, False, True, True, True]
        assert read_truth(frames.part(third.name)).num_frames == NUM_FRAMES

    def test_strict_stops_at_the_first(
        self, ray_session: None, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = min((data_root / "images/track/val").rglob("*.jpg"))
        cut_in_half(image)
        root = tmp_path / "root"
        arguments = [*ingest_arguments(data_root, root), "--strict"]
        assert command.run(ingest.main, arguments) == command.FAILED
        assert image.name in error_line(capsys.readouterr().err)
        assert not list((root / "frames").glob("*/*/*/manifest.json"))

    def test_a_label_file_cannot_write_outside_the_root(
        self, ray_session: None, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Promise: a sequence name is never a path."""
        label_file = min((data_root / "labels/box_track_20/val").iterdir())
        frames = json.loads(label_file.read_text())
        for frame in frames:
            frame["videoName"] = "../../../../outside"
        label_file.write_text(json.dumps(frames))
        root = tmp_path / "deep" / "root"
        before = set(tmp_path.iterdir())
        command.run(ingest.main, ingest_arguments(data_root, root))
        printed = capsys.readouterr()
        assert "outside" in printed.out + printed.err
        assert set(tmp_path.iterdir()) - before == {tmp_path / "deep"}
        assert set((tmp_path / "deep").iterdir()) == {root}
        assert all("outside" not in name for name in frames_of(root).sequences())

    def test_a_disk_that_fills_up_leaves_nothing_that_looks_finished(
        self,
        ray_session: None,
        data_root: Path,
        small_disk: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Promise: one line that names the disk's file; when there is room, the rest is done."""
        filler = small_disk / "filler"
        filler.write_bytes(bytes(SMALL_DISK_BYTES - 40_000))
        root = small_disk / "root"
        arguments = ingest_arguments(data_root, root)
        assert command.run(ingest.main, arguments) == command.FAILED
        line = error_line(capsys.readouterr().err)
        assert "No space left on device" in line
        assert str(root) in line
        assert not list((root / "frames").glob("*/*/*/manifest.json"))
        filler.unlink()
        assert command.run(ingest.main, arguments) == 0
        frames = frames_of(root)
        assert len(frames.sequences()) == 3
        for name in frames.sequences():
            frames.part(name).verify()


class TestArtefacts:
    def test_a_cut_shard_is_named_and_made_again(
        self, stages: Stages, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Promise: inference says which file is damaged and what to do; doing that repairs it."""
        shutil.rmtree(stages.root / "detections")
        shutil.rmtree(stages.root / "tracks")
        shard = only(stages.root / "frames", "frames-*.parquet")
        whole = shard.read_bytes()
        cut_in_half(shard)
        assert stages.infer() == command.FAILED
        assert str(shard) in error_line(capsys.readouterr().err)
        assert not list((stages.root / "detections").glob("*/*/*/manifest.json"))
        assert stages.ingest() == 0
        assert shard.read_bytes() == whole
        assert stages.infer() == 0

    @pytest.mark.parametrize("pattern", ["detections.arrow", "tracks.parquet"])
    def test_a_cut_result_is_made_again(self, stages: Stages, pattern: str) -> None:
        folder = stages.root / pattern.partition(".")[0]
        before = contents(folder)
        cut_in_half(only(folder, pattern))
        assert stages.infer() == 0
        after = contents(folder)
        assert {path: after[path] for path in after if path.name == pattern} == {
            path: before[path] for path in before if path.name == pattern
        }

    def test_nan_boxes_in_stored_detections_are_named(
        self, stages: Stages, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A file that holds a NaN, with its right checksum."""
        shutil.rmtree(stages.root / "tracks")
        name = max(
            stages.detections.sequences(),
            key=lambda name: int(stages.detections.part(name).details()["num_detections"]),
        )
        part = stages.detections.part(name)
        details = part.details()
        path = Path(part.location("detections.arrow"))
        table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        column = table.schema.get_field_index("score")
        scores = [float("nan"), *table["score"].to_pylist()[1:]]
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.array(scores, field.type))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        with part.write() as part_writer:
            with part_writer.open_file("detections.arrow") as file:
                file.write(sink.getvalue())
            part_writer.details.update(details)
        assert stages.infer() == command.FAILED
        line = error_line(capsys.readouterr().err)
        assert name in line
        assert "nan" in line
        assert not list((stages.root / "tracks").glob("*/*/*/manifest.json"))


class RunsWhenRead:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


class TestWeights:
    @pytest.fixture
    def malicious(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.safetensors"
        path.write_bytes(pickle.dumps({"state_dict": RunsWhenRead(tmp_path / "was run")}))
        return path

    def test_a_malicious_pickle_is_refused_by_every_job_that_takes_weights(
        self, stages: Stages, malicious: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        video = tmp_path / "video"
        video.mkdir()
        for image in sorted((stages.data_root / "images/track/val").rglob("*.jpg"))[:2]:
            shutil.copy(image, video)
        root = tmp_path / "of train_bdd"
        places = ["--data-root", str(stages.data_root), "--output-root", str(root)]
        for job, arguments in (
            (infer, infer_arguments(stages.frames, malicious)),
            (track, [str(video), "--weights", str(malicious), "--out", str(tmp_path / "out")]),
            (train_bdd, [*places, "--weights", str(malicious)]),
        ):
            assert command.run(job.main, arguments) == command.FAILED
            assert str(malicious) in error_line(capsys.readouterr().err)
        assert not (tmp_path / "was run").exists()
        assert not (tmp_path / "out").exists()
        assert not (root / "weights").exists()

    def test_the_pickle_does_run_where_it_is_read_carelessly(self, tmp_path: Path) -> None:
        """So the test above can fail."""
        pickle.loads(pickle.dumps(RunsWhenRead(tmp_path / "was run")))
        assert (tmp_path / "was run").exists()

    def test_cut_weights_are_refused(
        self, stages: Stages, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        cut = Path(shutil.copy(stages.weights, tmp_path / "cut.safetensors"))
        cut_in_half(cut)
        assert command.run(infer.main, infer_arguments(stages.frames, cut)) == command.FAILED
        assert str(cut) in error_line(capsys.readouterr().err)


class TestResults:
    def test_a_result_file_with_paths_for_names_is_refused(
        self, stages: Stages, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        truth = stages.data_root / "labels/box_track_20/val"
        results = tmp_path / "results.json"
        frame = {"videoName": "../../outside", "name": "a.jpg", "frameIndex": 0, "labels": []}
        results.write_text(json.dumps([frame]))
        arguments = ["--benchmark", "bdd100k", "--truth", str(truth), "--results", str(results)]
        assert command.run(evaluate.main, arguments) == command.FAILED
        assert "outside" in error_line(capsys.readouterr().err)

    def test_cut_tracks_are_not_exported(
        self, stages: Stages, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        damaged = only(stages.root / "tracks", "tracks.parquet")
        cut_in_half(damaged)
        out = tmp_path / "submission"
        arguments = ["--benchmark", "bdd100k", "--tracks", stages.tracks.folder, str(out)]
        assert command.run(export.main, arguments) == command.FAILED
        assert str(damaged.parent) in error_line(capsys.readouterr().err)
        assert not out.exists()


SMALL_DISK_BYTES = 2_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = f"size={SMALL_DISK_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_a_video_is_tracked(
    stages: Stages, tmp_path: Path, start_job: StartJob
) -> None:
    """Promise kept without a small disk as well: a file-size limit fails the same writes."""
    video = min((stages.data_root / "images/track/val").iterdir())
    out = tmp_path / "out"
    with start_job(
        *("jobs.track", video, "--weights", stages.weights, "--out", out),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)),
    ) as job:
        _, errors = job.communicate(timeout=300)
    assert job.returncode == command.FAILED
    assert "File too large" in error_line(errors)
    assert not list(out.iterdir())
