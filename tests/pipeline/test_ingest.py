"""Ingest keeps what can be read, names what cannot, and does only what is missing."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.images import decode_image, encode_jpeg
from datasets.registry import BENCHMARKS
from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k
from pipeline import ingest_segment
from pipeline.frames import FrameReader, read_annotations, read_truth
from pipeline.ingest import DataConfig, IngestError, NothingFoundError, ingest, report
from pipeline.ingest_segment import cut_segments, group_stills
from pipeline.store import Artefact

pytestmark = pytest.mark.slow

BDD100K = BENCHMARKS["bdd100k"]
CONFIG = DataConfig()
NUM_FRAMES = 6


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three train sequences (one of them a video), two val, 12 stills."""
    root = tmp_path_factory.mktemp("raw") / "bdd100k"
    config = SyntheticConfig(
        num_train=3, num_val=2, num_frames=NUM_FRAMES, num_stills=12, video_share=0.34
    )
    write_synthetic_bdd100k(root, config)
    return root


@pytest.fixture
def data_root(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(pristine, tmp_path / "bdd100k")
    return tmp_path / "bdd100k"


def run(data_root: Path, tmp_path: Path, split: str = "train", *, strict: bool = False) -> Artefact:
    return ingest(BDD100K, data_root, split, CONFIG, str(tmp_path / "out"), strict=strict)


def modified(artefact: Artefact) -> dict[str, int]:
    folder = Path(artefact.folder)
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def image_folders(data_root: Path) -> list[Path]:
    return sorted((data_root / "images" / "track" / "train").iterdir())


def test_images_are_copied_and_videos_decoded_frame_by_frame(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    artefact = run(data_root, tmp_path)
    assert report(artefact) == []
    assert len(artefact.sequences()) == 3
    videos = [p.stem for p in (data_root / "videos" / "train").iterdir()]
    assert len(videos) == 1
    for name in artefact.sequences():
        part = artefact.part(name)
        frames = FrameReader(part).read(0, 100)
        assert [frame.frame_index for frame in frames] == list(range(NUM_FRAMES))
        assert part.details()["has_labels"]
        assert part.details()["frame_rate"] == pytest.approx(5.0)
        for frame in frames:
            assert decode_image(frame.image).shape == (frame.height, frame.width, 3)
            if name not in videos:
                raw = data_root / "images" / "track" / "train" / name / frame.name
                assert frame.image == raw.read_bytes()
        timed = [frame.timestamp_us for frame in frames]
        assert timed == ([200_000 * i for i in range(NUM_FRAMES)] if name in videos else [None] * 6)


def test_stills_become_one_sequence_of_unrelated_frames(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    artefact = run(data_root, tmp_path, "det_train")
    assert artefact.sequences() == ["det_train-00000"]
    part = artefact.part("det_train-00000")
    assert part.details()["is_still"]
    assert FrameReader(part).num_frames == 12
    annotations = read_annotations(part)
    assert len(np.unique(annotations.identity)) == len(annotations)


def test_a_second_run_touches_nothing(ray_session: None, data_root: Path, tmp_path: Path) -> None:
    before = modified(run(data_root, tmp_path))
    assert modified(run(data_root, tmp_path)) == before


def test_an_interrupted_run_goes_on_with_what_is_missing(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    artefact = run(data_root, tmp_path)
    lost, damaged, kept = artefact.sequences()
    os.unlink(f"{artefact.folder}/manifest.json")
    shutil.rmtree(artefact.part(lost).folder)
    shard = Path(artefact.part(damaged).folder) / "frames-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:1000])
    before = {p: t for p, t in modified(artefact).items() if kept in p}
    artefact = run(data_root, tmp_path)
    after = modified(artefact)
    assert {p: t for p, t in after.items() if p in before} == before
    for name in artefact.sequences():
        artefact.part(name).verify()


def test_a_part_lost_after_the_end_is_made_again(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    artefact = run(data_root, tmp_path)
    lost, damaged, kept = artefact.sequences()
    shutil.rmtree(artefact.part(lost).folder)
    shard = Path(artefact.part(damaged).folder) / "frames-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:1000])
    before = {p: t for p, t in modified(artefact).items() if f"/{kept}/" in p}
    artefact = run(data_root, tmp_path)
    assert {p: t for p, t in modified(artefact).items() if p in before} == before
    assert artefact.sequences() == [lost, damaged, kept]
    for name in artefact.sequences():
        artefact.part(name).verify()


def test_a_storage_that_fails_is_one_error_with_the_sequence_and_the_place(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    name = image_folders(data_root)[0].name
    artefact = run(data_root, tmp_path)
    folder = Path(artefact.part(name).folder)
    shutil.rmtree(folder)
    folder.touch()  # in the way of the folder to write, like a disk that takes no more
    with pytest.raises(IngestError, match=f"^sequence '{name}', stored in {folder}: .*exists"):
        run(data_root, tmp_path)


def test_strict_refuses_what_a_run_that_was_not_strict_let_pass(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    image = sorted(image_folders(data_root)[0].iterdir())[1]
    image.write_bytes(b"no image")
    artefact = run(data_root, tmp_path)
    assert artefact.details()["num_broken_frames"] == 1
    with pytest.raises(IngestError, match=rf"{image.name}.*--strict"):
        run(data_root, tmp_path, strict=True)


def test_a_changed_input_is_another_artefact(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    first = run(data_root, tmp_path, "val")
    image = next((data_root / "images" / "track" / "val").rglob("*.jpg"))
    os.utime(image, ns=(1, 1))
    assert run(data_root, tmp_path, "val").fingerprint != first.fingerprint


def test_a_broken_frame_keeps_its_row_without_an_image(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    folder, other = image_folders(data_root)[:2]
    images = sorted(folder.iterdir())
    images[2].write_bytes(images[2].read_bytes()[:500])
    images[4].unlink()
    images[4].mkdir()  # whatever cannot be read: here a folder of that name
    artefact = run(data_root, tmp_path)
    part = artefact.part(folder.name)
    frames = FrameReader(part).read(0, 100)
    assert [bool(frame.image) for frame in frames] == [True, True, False, True, False, True]
    assert part.details()["broken_frames"] == [2, 4]
    assert read_truth(part).num_frames == NUM_FRAMES
    problems = [p for p in report(artefact) if folder.name in p.where]
    assert {"frame 2", "frame 4"} <= {p.where.rsplit(", ", 1)[-1] for p in problems}
    assert artefact.part(other.name).details()["broken_frames"] == []
    with pytest.raises(IngestError, match="--strict"):
        ingest(BDD100K, data_root, "train", CONFIG, str(tmp_path / "strict"), strict=True)


def test_a_broken_video_gives_its_first_frames_and_empty_ones(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    (video,) = (data_root / "videos" / "train").iterdir()
    video.write_bytes(b"not a video at all" * 100)
    artefact = run(data_root, tmp_path)
    assert len(artefact.sequences()) == 2
    assert any(video.stem in p.where and "left out" in p.what for p in report(artefact))


def test_a_broken_label_file_loses_its_sequence_only(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    labels = sorted((data_root / "labels" / "box_track_20" / "train").iterdir())
    text = labels[0].read_text()
    labels[0].write_text(text[: len(text) // 2])
    artefact = run(data_root, tmp_path)
    assert labels[0].stem not in artefact.sequences()
    assert len(artefact.sequences()) == 2
    assert any(labels[0].name in p.what for p in report(artefact))


def test_an_unknown_category_is_reported_and_its_neighbours_stay(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    path = min((data_root / "labels" / "box_track_20" / "train").iterdir())
    frames = json.loads(path.read_text())
    labelled = next(frame for frame in frames if frame["labels"])
    labelled["labels"][0]["category"] = "spaceship"
    path.write_text(json.dumps(frames))
    artefact = run(data_root, tmp_path)
    assert any("spaceship" in p.what for p in report(artefact))
    assert path.stem in artefact.sequences()


def test_nothing_readable_is_an_error(ray_session: None, data_root: Path, tmp_path: Path) -> None:
    for path in (data_root / "labels" / "box_track_20" / "val").iterdir():
        path.write_text("{")
    with pytest.raises(IngestError, match="none of the sequences"):
        run(data_root, tmp_path, "val")
    with pytest.raises(NothingFoundError, match="no sequence"):
        run(tmp_path, tmp_path, "val")


def test_a_long_video_is_cut_and_comes_out_whole(
    ray_session: None,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources, _ = BDD100K.list_sequences(data_root, "train")
    whole = run(data_root, tmp_path)
    monkeypatch.setattr(ingest_segment, "FRAMES_PER_SEGMENT", 4)
    (video,) = [source for source in sources if source.video]
    assert [(s.start, s.stop) for s in cut_segments(video)] == [(0, 4), (4, None)]
    cut = ingest(BDD100K, data_root, "train", CONFIG, str(tmp_path / "cut"))
    for name in whole.sequences():
        one = FrameReader(whole.part(name)).read(0, 100)
        assert FrameReader(cut.part(name)).read(0, 100) == one


def test_grouping_stills_leaves_sequences_alone(data_root: Path) -> None:
    stills, _ = BDD100K.list_sequences(data_root, "det_train")
    sequences, _ = BDD100K.list_sequences(data_root, "train")
    assert group_stills(sequences) == sequences
    assert [len(group.images) for group in group_stills(stills, stills_per_group=5)] == [5, 5, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"benchmark": "kitti"}, "benchmark is 'kitti', expected one of apollo_mots, bdd100k"),
        ({"train_splits": ()}, "train_splits is empty"),
        ({"jpeg_quality": 0}, "jpeg_quality is 0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)


def test_images_that_are_not_there_are_reported(
    ray_session: None, data_root: Path, tmp_path: Path
) -> None:
    """A link into nowhere, and a frame that `seqLength` promises: both keep their rows."""
    folder = image_folders(data_root)[0]
    dangling = sorted(folder.iterdir())[1]
    dangling.unlink()
    dangling.symlink_to(tmp_path / "nowhere.jpg")
    artefact = run(data_root, tmp_path)
    assert artefact.part(folder.name).details()["broken_frames"] == [1]
    assert dangling.name in report(artefact)[0].what

    mot = tmp_path / "MOT17" / "train" / "MOT17-02"
    (mot / "gt").mkdir(parents=True)
    (mot / "gt" / "gt.txt").write_text("1,1,10,10,20,20,1,1,1\n")
    (mot / "seqinfo.ini").write_text(
        "[Sequence]\nname=MOT17-02\nimDir=img1\nframeRate=25\nseqLength=3\n"
        "imWidth=64\nimHeight=48\nimExt=.jpg\n"
    )
    (mot / "img1").mkdir()
    for number in (1, 3):
        image = encode_jpeg(np.zeros((48, 64, 3), np.uint8), 90)
        (mot / "img1" / f"{number:06d}.jpg").write_bytes(image)
    config = DataConfig(benchmark="mot17", dataset="mot17", train_splits=("train",))
    stored = ingest(BENCHMARKS["mot17"], tmp_path / "MOT17", "train", config, str(tmp_path / "out"))
    assert stored.part("MOT17-02").details()["broken_frames"] == [1]
    assert FrameReader(stored.part("MOT17-02")).num_frames == 3
