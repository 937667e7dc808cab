"""Crops and instances: what is cut out of which frames, and that nothing is done twice."""

import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets import kins
from datasets.masks import encode_instances, mask_boxes
from datasets.mots_crops import IGNORE
from datasets.schema import Annotations
from models.pointtrack.points import instance_crops
from pipeline import prepare
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.ingest_segment import cut_segments, group_stills, ingest_segment
from pipeline.prepare import (
    PEDESTRIAN_CROPS,
    CropConfig,
    PrepareError,
    prepare_crops,
    prepare_instances,
    select_frames,
)
from pipeline.prepared_rows import CropRows, InstanceRows
from pipeline.store import Artefact, Part, StoreError
from tests.kins_files import annotation, write_kins

HEIGHT, WIDTH = 40, 64
SMALL = CropConfig(height=16, width=24)
IGNORED = 10000

Blocks = dict[int, tuple[int, int, int, int]]
"""Value of KITTI MOTS -> rows top to bottom and columns left to right."""

SEQUENCES: dict[str, list[Blocks]] = {
    "0000": [
        {1002: (0, 9, 50, 64), 1000: (20, 30, 4, 21), 2000: (10, 20, 30, 34)},
        {2000: (10, 20, 30, 34)},
        {},
        {1000: (22, 32, 10, 27), IGNORED: (10, 40, 0, 64)},
    ],
    "0001": [{}, {}],
    "0003": [{1005: (39, 40, 0, 64)}, {1005: (0, 40, 0, 64)}],
}


def map_of(blocks: Blocks) -> np.ndarray[Any, Any]:
    values = np.zeros((HEIGHT, WIDTH), np.int32)
    for value, (top, bottom, left, right) in sorted(blocks.items(), reverse=True):
        values[top:bottom, left:right] = value
    return values


def picture(name: str, frame: int) -> np.ndarray[Any, Any]:
    """Noise, RGB, another one for each frame."""
    rng = np.random.default_rng([*name.encode(), frame])
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def write_sequence(
    part: Part, maps: Sequence[Blocks], *, broken: Sequence[int] = (), **details: Any
) -> None:
    frames, rows, codes = [], [], []
    for index, blocks in enumerate(maps):
        image = cv2.imencode(".png", picture(part.name, index)[..., ::-1])[1].tobytes()
        frames.append(
            Frame(
                frame_index=index,
                name=f"{index:06d}.png",
                timestamp_us=None,
                height=HEIGHT,
                width=WIDTH,
                image=b"" if index in broken else image,
            )
        )
        rows += [(index, value) for value in blocks]
        codes += encode_instances(map_of(blocks), list(blocks))
    values = np.array([value for _, value in rows], np.int64)
    no = np.zeros(len(rows), bool)
    annotations = Annotations(
        frame_index=np.array([frame for frame, _ in rows], np.int32),
        identity=values,
        identity_source=tuple(map(str, values)),
        category=("thing",) * len(rows),
        class_index=np.where(values == IGNORED, -1, values // 1000 - 1).astype(np.int16),
        boxes_xyxy=mask_boxes(codes),
        crowd=no,
        ignored=values == IGNORED,
        occluded=no,
        truncated=no,
        visibility=np.full(len(rows), np.nan, np.float32),
        masks=tuple(codes) if codes else None,
    )
    with part.write() as writer:
        write_frames(writer, part.name, frames)
        writer.write_parquet(ANNOTATIONS_FILE, annotations.to_table(part.name))
        writer.details = {"has_labels": True, "is_still": False, "broken_frames": list(broken)}
        writer.details |= details


@pytest.fixture
def frames(tmp_path: Path) -> Artefact:
    """Three sequences, one of them without any object."""
    artefact = Artefact(
        root=str(tmp_path), stage="frames", dataset="kitti", split="train", fingerprint="f" * 16
    )
    for name, maps in SEQUENCES.items():
        write_sequence(artefact.part(name), maps)
    artefact.finish(SEQUENCES, {"benchmark": "kitti_mots"})
    return artefact


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tasks without Ray Data, the last sequence first."""

    def stream(
        artefact: Artefact, todo: Sequence[Part], write: Callable[..., int]
    ) -> Iterator[str]:
        for part in reversed(todo):
            row = prepare._PartTask(artefact, write)({"part": part})
            if row["error"] is not None:
                raise PrepareError(row["error"])
            yield part.name

    monkeypatch.setattr(prepare, "_stream", stream)


def modified(artefact: Artefact) -> dict[str, int]:
    folder = Path(artefact.folder)
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("in_this_process")
class TestCrops:
    def test_a_window_around_every_car_holds_pixels_and_numbers(self, frames: Artefact) -> None:
        rows = CropRows([prepare_crops(frames, SMALL)])
        crops = [rows.row(i) for i in range(len(rows))]
        assert [(c.sequence, c.frame_index, c.identity, c.top, c.left) for c in crops] == [
            ("0000", 0, 1000, 16, 0),
            ("0000", 0, 1002, 0, 40),
            ("0000", 3, 1000, 18, 6),
            ("0003", 0, 1005, 24, 19),
            ("0003", 1, 1005, 11, 19),
        ]
        for crop in crops:
            window = slice(crop.top, crop.top + 16), slice(crop.left, crop.left + 24)
            assert np.array_equal(crop.image, picture(crop.sequence, crop.frame_index)[window])
            values = map_of(SEQUENCES[crop.sequence][crop.frame_index])[window]
            assert crop.instances.dtype == np.uint16
            # No window of these holds two cars.
            expected = np.where(values // 1000 == 1, 1, 0)
            expected[values == IGNORED] = IGNORE
            assert np.array_equal(crop.instances, expected)

    def test_columns_tell_where_rows_come_from(self, frames: Artefact) -> None:
        rows = CropRows([prepare_crops(frames, SMALL), prepare_crops(frames, PEDESTRIAN_CROPS)])
        assert len(rows) == 7
        assert [rows.parts[i].name for i in rows.part_index] == [*["0000"] * 3, *["0003"] * 2] + [
            "0000"
        ] * 2
        assert rows.column("identity").tolist() == [1000, 1002, 1000, 1005, 1005, 2000, 2000]
        assert rows.column("frame_index").tolist() == [0, 0, 3, 0, 1, 0, 1]
        assert list(rows.keys())[2:4] == [("0000", 3, 1000), ("0003", 0, 1005)]
        with pytest.raises(IndexError, match="row 7 of 7"):
            rows.row(7)
        with pytest.raises(IndexError):
            rows.row(-1)

    def test_an_image_smaller_than_the_window_gives_all_of_itself(self, frames: Artefact) -> None:
        crop = CropRows([prepare_crops(frames, CropConfig())]).row(0)
        assert (crop.top, crop.left, crop.image.shape) == (0, 0, (HEIGHT, WIDTH, 3))
        assert np.unique(crop.instances).tolist() == [0, 1, 2]
        assert (crop.instances[20:30, 4:21] == 1).all()

    def test_the_ways_of_the_release_are_switches(self, frames: Artefact) -> None:
        released = prepare_crops(frames, replace(SMALL, ignore_as_background=True))
        rows = CropRows([released])
        assert rows.column("identity").tolist() == [1000, 1002, 1000, 1005, 1005]
        assert all(rows.row(i).instances.max() == 1 for i in range(len(rows)))
        only_stills = replace(SMALL, stills_only=True)
        assert len(CropRows([prepare_crops(frames, only_stills)])) == 0
        write_sequence(frames.part("0003"), SEQUENCES["0003"], is_still=True)
        again = replace(only_stills, height=17)
        assert len(CropRows([prepare_crops(frames, again)])) == 2

    def test_many_batches_read_like_one(
        self, frames: Artefact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = CropRows([prepare_crops(frames, SMALL)])
        shutil.rmtree(frames.root + "/crops/kitti/train")
        monkeypatch.setattr(prepare, "_BATCH_BYTES", 1)
        cut = CropRows([prepare_crops(frames, SMALL)])
        for i in (4, 0, 2, 1, 3):
            assert np.array_equal(cut.row(i).image, whole.row(i).image)
            assert cut.row(i).identity == whole.row(i).identity
        copy = pickle.loads(pickle.dumps(cut))
        assert np.array_equal(copy.row(3).image, whole.row(3).image)

    def test_stills_of_kins_feed_crops_too(self, frames: Artefact, tmp_path: Path) -> None:
        boxes = {4: (2, 6, 2, 6), 7: (4, 8, 4, 8), 2: (0, 2, 0, 14)}
        objects = [
            annotation(k, 8, category, box) for k, (category, box) in enumerate(boxes.items())
        ]
        write_kins(tmp_path / "kitti", [*objects, annotation(9, 9, 4, (0, 10, 0, 14))])
        (source,) = group_stills(kins.list_sequences(tmp_path / "kitti", "train")[0])
        stills = replace(frames, dataset="kins")
        (segment,) = cut_segments(source)
        outcome = ingest_segment(stills, segment, jpeg_quality=90)
        assert outcome.problems == []
        with stills.part(source.name).write() as writer:
            writer.adopt(outcome.files)
            writer.details = {**outcome.details, "broken_frames": []}
        stills.finish([source.name], {"benchmark": "kins"})
        config = CropConfig(height=8, width=8, stills_only=True)
        rows = CropRows([prepare_crops(stills, config), prepare_crops(frames, config)])
        assert [rows.row(i).frame_index for i in range(len(rows))] == [1, 2]
        car = rows.row(0)
        assert (car.sequence, car.top, car.left) == ("train-00000", 0, 0)
        expected = np.zeros((8, 8), np.uint16)
        expected[2:6, 2:6] = 1
        expected[4:8, 4:8] = 0  # a van in front of it
        assert np.array_equal(car.instances, expected)

    @pytest.mark.parametrize("name", ["height", "width"])
    def test_a_window_that_cannot_be_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} is 0, expected 8 to 8192"):
            CropConfig(**{name: 0})


@pytest.mark.usefixtures("in_this_process")
class TestInstances:
    def test_rows_are_what_instance_crops_makes_of_the_class_alone(self, frames: Artefact) -> None:
        rows = InstanceRows([prepare_instances(frames, "car")])
        expected = []
        for name, maps in SEQUENCES.items():
            for frame, blocks in enumerate(maps):
                values = map_of(blocks)
                values[values // 1000 != 1] = 0
                image_bgr = np.ascontiguousarray(picture(name, frame)[..., ::-1])
                expected += instance_crops(image_bgr, values)
        assert len(rows) == len(expected) == 5
        for i, crop in enumerate(expected):
            row = rows.row(i)
            assert (row.identity, row.start) == (crop.identity, crop.start)
            for field in ("image_bgr", "mask", "categories"):
                assert np.array_equal(getattr(row, field), getattr(crop, field)), field

    def test_windows_by_hand(self, frames: Artefact) -> None:
        """Rows 20 to 29 and columns 4 to 20: 9 and 16 long, so 1 and 3 more on each side."""
        row = InstanceRows([prepare_instances(frames, "car")]).row(0)
        assert (row.identity, row.start, row.mask.shape) == (1000, (19, 1), (12, 23))
        assert row.mask.sum() == 170
        assert set(np.unique(row.categories)) == {0, 1}
        assert np.array_equal(row.image_bgr, picture("0000", 0)[19:31, 1:24, ::-1])
        assert not row.image_bgr.flags.writeable

    def test_pedestrians_are_a_database_of_their_own(self, frames: Artefact) -> None:
        artefact = prepare_instances(frames, "pedestrian")
        rows = InstanceRows([artefact])
        assert rows.column("identity").tolist() == [2000, 2000]
        assert artefact.details()["num_instances"] == 2
        assert artefact.fingerprint != prepare_instances(frames, "car").fingerprint


@pytest.mark.usefixtures("in_this_process")
class TestBorders:
    def test_empty_sequences_are_finished_parts_without_rows(self, frames: Artefact) -> None:
        for artefact in (prepare_crops(frames, SMALL), prepare_instances(frames, "car")):
            assert artefact.sequences() == list(SEQUENCES)
            assert artefact.part("0001").details() == {"num_rows": 0, "num_skipped_frames": 0}
            assert artefact.part("0001").read_arrow(f"{artefact.stage}.arrow").num_rows == 0

    def test_a_frame_without_an_image_is_skipped_and_counted(
        self, frames: Artefact, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_sequence(frames.part("0000"), SEQUENCES["0000"], broken=[0])
        artefact = prepare_crops(frames, SMALL)
        assert artefact.details()["num_skipped_frames"] == 1
        assert artefact.details()["num_crops"] == 3
        assert "skipped 1 frames" in caplog.text
        assert select_frames(frames, "car") == [("0000", 3), ("0003", 0), ("0003", 1)]
        assert "1 of 4 frames with a car have no image" in caplog.text
        assert select_frames(frames, "car", first_frames=2) == [("0000", 3)]

    def test_frames_of_a_class_in_order(self, frames: Artefact) -> None:
        assert select_frames(frames, "pedestrian") == [("0000", 0), ("0000", 1)]

    def test_another_config_class_or_input_is_another_artefact(self, frames: Artefact) -> None:
        first = prepare_crops(frames, SMALL)
        changes = ({"height": 17}, {"ignore_as_background": True}, {"class_name": "pedestrian"})
        others = [prepare_crops(frames, replace(SMALL, **change)) for change in changes]
        moved = replace(frames, fingerprint="e" * 16)
        shutil.copytree(frames.folder, moved.folder)
        others.append(prepare_crops(moved, SMALL))
        assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5

    def test_an_unknown_class_names_the_known_ones(self, frames: Artefact) -> None:
        for run in (
            lambda: prepare_crops(frames, replace(SMALL, class_name="tram")),
            lambda: prepare_instances(frames, "tram"),
            lambda: select_frames(frames, "tram"),
        ):
            with pytest.raises(ValueError, match="no class 'tram', expected one of car, pedes"):
                run()

    def test_what_cannot_be_prepared_names_sequence_and_place(self, frames: Artefact) -> None:
        write_sequence(frames.part("0003"), SEQUENCES["0003"], has_labels=False)
        with pytest.raises(PrepareError, match=r"sequence '0003', stored in .*without labels"):
            prepare_crops(frames, SMALL)
        annotations = Annotations.from_table(
            frames.part("0000").read_parquet(ANNOTATIONS_FILE), where="here"
        )
        assert annotations.masks is not None
        masks = ({"size": [WIDTH, HEIGHT], "counts": annotations.masks[0]["counts"]},)
        spoiled = replace(annotations, masks=masks + annotations.masks[1:])
        with frames.part("0003").write() as writer:
            image = cv2.imencode(".png", picture("0003", 0))[1].tobytes()
            frame = Frame(
                frame_index=0,
                name="0.png",
                timestamp_us=None,
                height=HEIGHT,
                width=WIDTH,
                image=image,
            )
            write_frames(writer, "0003", [frame])
            writer.write_parquet(ANNOTATIONS_FILE, spoiled.to_table("0003"))
            writer.details = {"has_labels": True, "is_still": False, "broken_frames": []}
        with pytest.raises(PrepareError, match=r"'0003'.*frame 0 \(0.png\): the mask of '1002'"):
            prepare_instances(frames, "car")
        unmasked = replace(annotations, masks=None)
        with frames.part("0003").write() as writer:
            write_frames(writer, "0003", [frame])
            writer.write_parquet(ANNOTATIONS_FILE, unmasked.to_table("0003"))
            writer.details = {"has_labels": True, "is_still": False, "broken_frames": []}
        with pytest.raises(PrepareError, match=r"'0003'.*boxes without masks"):
            prepare_crops(frames, SMALL)

    def test_readers_refuse_what_is_not_theirs(self, frames: Artefact) -> None:
        crops = prepare_crops(frames, SMALL)
        with pytest.raises(ValueError, match="stage 'crops', expected one of 'instances'"):
            InstanceRows([crops])
        with pytest.raises(StoreError, match="did not finish"):
            CropRows([replace(crops, fingerprint="0" * 16)])


@pytest.mark.slow
def test_a_second_run_touches_nothing_and_a_lost_part_is_made_again(
    ray_session: None, frames: Artefact
) -> None:
    artefact = prepare_crops(frames, SMALL)
    assert artefact.details()["num_crops"] == 5
    before = modified(artefact)
    assert modified(prepare_crops(frames, SMALL)) == before
    shutil.rmtree(artefact.part("0000").folder)
    again = modified(prepare_crops(frames, SMALL))
    changed = {path for path in before if again[path] != before[path]}
    assert again.keys() == before.keys()
    assert {Path(path).parent.name for path in changed} == {"0000", artefact.fingerprint}
    artefact.part("0000").verify()
    assert CropRows([artefact]).row(0).identity == 1000


@pytest.mark.slow
def test_a_task_that_fails_is_one_error_and_the_rest_stays(
    ray_session: None, frames: Artefact
) -> None:
    write_sequence(frames.part("0003"), SEQUENCES["0003"], has_labels=False)
    with pytest.raises(PrepareError, match=r"^sequence '0003', stored in .*without labels"):
        prepare_instances(frames, "car")
    write_sequence(frames.part("0003"), SEQUENCES["0003"])
    assert len(InstanceRows([prepare_instances(frames, "car")])) == 5
