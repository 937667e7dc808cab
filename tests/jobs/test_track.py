"""Tracking of a user's own video: what is written, what is refused, what a broken one leaves."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from datasets.images import encode_jpeg
from datasets.motchallenge import read_results
from datasets.schema import Tracks
from datasets.video import VideoWriter, iterate_frames, probe_video
from jobs import command, track
from models.config_io import config_to_dict
from models.qdtrack.association import TrackerConfig
from models.qdtrack.model import QDTrack
from models.weights import load_weights, save_weights
from pipeline.associate import associate_sequence
from pipeline.frames import Frame, FrameReader, write_frames
from pipeline.infer import InferConfig, detect_sequence
from pipeline.store import Part
from pipeline.track import FrameSource, TrackedVideo, open_source, track_video, write_results
from tests.small_model import MODEL

# Untrained embeddings are all alike: compared by cosine, tracks go on from frame to frame.
ASSOCIATION = TrackerConfig(
    init_score_thr=0.4, obj_score_thr=0.35, nms_class_iou_thr=0.5, match_metric="cosine"
)
SETTINGS = [
    argument
    for name, value in config_to_dict(ASSOCIATION).items()
    for argument in ("--set", f"association.{name}={value}")
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was never trained: what it finds is the same every time."""
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(path, QDTrack(MODEL))
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> QDTrack:
    return load_weights(weights).model


def scenery(num_frames: int) -> Iterator[np.ndarray]:
    """Small noisy pictures with two boxes that move."""
    random = np.random.default_rng(5)
    for index in range(num_frames):
        image = random.integers(80, 150, (64, 96, 3)).astype(np.uint8)
        image[20:44, 10 + index : 34 + index] = (220, 40, 40)
        image[30:52, 60 - index : 80 - index] = (40, 60, 230)
        yield image


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small frames, 8 a second."""
    path = tmp_path_factory.mktemp("video") / "short one.mp4"
    with VideoWriter(path, width=96, height=64, frame_rate=8) as writer:
        for image in scenery(10):
            writer.write(image)
    return path


@pytest.fixture
def cut_video(video: Path, tmp_path: Path) -> Path:
    """The same, its last third missing."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    return path


def run(source: Path, weights: Path, out: Path, *further: str) -> int:
    arguments = [str(source), "--weights", str(weights), "--out", str(out)]
    return command.run(track.main, [*arguments, *SETTINGS, *further])


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def assert_same_as_text(content: dict[str, Any], text: Path) -> Tracks:
    """Frames, ids, boxes and scores of the JSON are those of the MOTChallenge file."""
    (result,) = read_results(text).values()
    rows = [
        (frame["frame_index"], found["id"], found["box"], found["score"])
        for frame in content["frames"]
        for found in frame["objects"]
    ]
    tracks = result.tracks
    assert [row[0] for row in rows] == tracks.frame_index.tolist()
    assert [row[1] for row in rows] == tracks.track_id.tolist()
    assert np.allclose([row[2] for row in rows], tracks.boxes_xyxy, rtol=0, atol=1e-9)
    assert [row[3] for row in rows] == tracks.scores.tolist()
    return tracks


class TestRealVideos:
    def test_the_best_of_several_streams_is_tracked(
        self, shared: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = shared / "data/video/nasa_13013.mp4"
        assert run(source, weights, tmp_path, "--max-frames", "9") == 0
        names = ["nasa_13013-overlay.mp4", "nasa_13013.json", "nasa_13013.txt"]
        assert sorted(os.listdir(tmp_path)) == names

        content = read_json(tmp_path / "nasa_13013.json")
        frames = content.pop("frames")
        assert content == {
            "video": "nasa_13013.mp4",
            "width": 480,
            "height": 270,
            "frame_rate": pytest.approx(30000 / 1001),
            "num_frames": 9,
            "problem": None,
            "weights": "untrained.safetensors",
            "classes": ["car", "bus"],
            "association": config_to_dict(ASSOCIATION),
        }
        assert [frame["frame_index"] for frame in frames] == list(range(9))
        times_s = [frame["timestamp_us"] / 1e6 for frame in frames]
        assert times_s == pytest.approx([index * 0.033367 for index in range(9)], abs=1e-5)

        tracks = assert_same_as_text({"frames": frames}, tmp_path / "nasa_13013.txt")
        assert len(tracks) > len(np.unique(tracks.track_id)) > 1
        assert {found["class"] for frame in frames for found in frame["objects"]} <= {"car", "bus"}
        assert (tracks.boxes_xyxy >= 0).all()
        assert (tracks.boxes_xyxy <= [480, 270, 480, 270]).all()

        overlay = tmp_path / names[0]
        assert len(list(iterate_frames(overlay))) == 9
        info = probe_video(overlay)
        assert (info.width, info.height) == (960, 540)  # enlarged, to be readable
        assert info.frame_rate == pytest.approx(30000 / 1001)

        lines = capsys.readouterr().out.splitlines()
        assert [line.split(maxsplit=1) for line in lines[:3]] == [
            ["overlay", str(overlay)],
            ["text", str(tmp_path / names[2])],
            ["json", str(tmp_path / names[1])],
        ]
        num_tracks = len(np.unique(tracks.track_id))
        assert lines[3:] == [f"9 frames, {num_tracks} tracks, {len(tracks)} boxes"]

    @pytest.mark.slow
    def test_all_frames_of_the_night_scene(
        self, shared: Path, weights: Path, tmp_path: Path
    ) -> None:
        assert run(shared / "data/video/demo.mp4", weights, tmp_path) == 0
        content = read_json(tmp_path / "demo.json")
        assert (content["width"], content["height"], content["frame_rate"]) == (1920, 1080, 3)
        assert (content["num_frames"], len(content["frames"])) == (8, 8)
        assert len(assert_same_as_text(content, tmp_path / "demo.txt")) > 8
        overlay = list(iterate_frames(tmp_path / "demo-overlay.mp4"))
        assert [image.shape for *_, image in overlay] == [(1080, 1920, 3)] * 8

    @pytest.mark.slow
    def test_all_frames_of_the_video_with_several_streams(
        self, shared: Path, model: QDTrack
    ) -> None:
        source = open_source(shared / "data/video/nasa_13013.mp4")
        tracked = track_video(source, model, ASSOCIATION, batch_size=4)
        assert tracked.num_frames == source.num_frames == 390
        assert tracked.problem is None
        assert tracked.timestamps_us[-1] == pytest.approx(389 * 1001 / 30000 * 1e6, abs=1)


class TestTracks:
    def test_they_are_those_of_the_stages(
        self, video: Path, model: QDTrack, tmp_path: Path
    ) -> None:
        """A user's video takes the same path as a benchmark: detect, then join."""
        part = Part(folder=str(tmp_path), name="short")
        frames = []
        for index, timestamp_us, image in iterate_frames(video):
            _, png = cv2.imencode(".png", image[:, :, ::-1])
            size = {"height": 64, "width": 96}
            frames.append(
                Frame(
                    frame_index=index,
                    name=str(index),
                    timestamp_us=timestamp_us,
                    image=png.tobytes(),
                    **size,
                )
            )
        with part.write() as writer:
            write_frames(writer, "short", frames)
        detections = detect_sequence(
            model, FrameReader(part), model.config.classes, InferConfig(batch_size=4)
        )
        expected = associate_sequence(detections, ASSOCIATION)
        found = track_video(open_source(video), model, ASSOCIATION, batch_size=4).tracks
        assert len(found) > 10
        for name, column in vars(expected).items():
            assert np.array_equal(column, getattr(found, name)), name

    def test_the_batch_size_does_not_matter(self, video: Path, model: QDTrack) -> None:
        source = open_source(video)
        one, many = (
            track_video(source, model, ASSOCIATION, batch_size=size).tracks for size in (1, 7)
        )
        assert np.array_equal(one.frame_index, many.frame_index)
        assert np.array_equal(one.track_id, many.track_id)
        assert np.allclose(one.boxes_xyxy, many.boxes_xyxy, rtol=0, atol=1e-3)

    def test_a_frame_limit_beyond_the_end_does_nothing(self, video: Path, model: QDTrack) -> None:
        tracked = track_video(open_source(video), model, ASSOCIATION, batch_size=4, max_frames=99)
        assert tracked.num_frames == 10
        assert tracked.problem is None

    def test_a_video_may_keep_its_length_to_itself(
        self, video: Path, model: QDTrack, tmp_path: Path
    ) -> None:
        """Matroska does not say how many frames there are."""
        path = tmp_path / "short.mkv"
        with av.open(str(video)) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        opened = open_source(path)
        assert opened.num_frames is None
        tracked = track_video(opened, model, ASSOCIATION, batch_size=4)
        assert (tracked.num_frames, tracked.problem) == (10, None)

    def test_a_frame_without_objects_is_listed(
        self, video: Path, weights: Path, tmp_path: Path
    ) -> None:
        nothing = ("--set", "association.init_score_thr=0.99")
        assert run(video, weights, tmp_path, *nothing) == 0
        frames = read_json(tmp_path / "short one.json")["frames"]
        assert [frame["objects"] for frame in frames] == [[]] * 10
        assert (tmp_path / "short one.txt").read_text() == ""
        assert len(list(iterate_frames(tmp_path / "short one-overlay.mp4"))) == 10

    def test_a_few_frames_are_in_memory_at_a_time(self, model: QDTrack, tmp_path: Path) -> None:
        source = CountingSource(
            path=tmp_path, name="counted", frame_rate=5, num_frames=24, counts=[]
        )
        tracked = track_video(source, model, ASSOCIATION, batch_size=3)
        assert tracked.num_frames == 24
        write_results(tracked, tmp_path, weights="none")
        assert len(source.counts) == 48  # read twice
        assert max(source.counts) <= 6  # two batches of three


@dataclass(frozen=True, kw_only=True)
class CountingSource(FrameSource):
    """Twenty-four pictures that know how many of them are alive."""

    counts: list[int] = field(default_factory=list)

    def read(
        self, stop: int | None = None, **_: Any
    ) -> Iterator[tuple[int, int | None, np.ndarray]]:
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        for index in range(24):
            image = np.full((64, 96, 3), 9 * index, np.uint8).view(Picture)
            alive.add(image)
            self.counts.append(len(alive))
            yield index, None, image
            del image


class Picture(np.ndarray):
    """An array that weak references can point to and that hashes by identity."""

    __hash__ = object.__hash__


@dataclass(frozen=True, kw_only=True)
class InterruptedSource(FrameSource):
    """Somebody presses Ctrl-C while the overlay is drawn."""

    def read(
        self, stop: int | None = None, **_: Any
    ) -> Iterator[tuple[int, int | None, np.ndarray]]:
        for index, image in enumerate(scenery(10)):
            if stop is not None and index == 4:
                raise KeyboardInterrupt
            yield index, None, image


class TestBrokenVideos:
    def test_what_decodes_is_kept_and_called_partial(
        self, cut_video: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert run(cut_video, weights, out) == 1
        printed = capsys.readouterr()
        assert sorted(os.listdir(out)) == [
            "cut-partial-overlay.mp4",
            "cut-partial.json",
            "cut-partial.txt",
        ]
        content = read_json(out / "cut-partial.json")
        assert 0 < content["num_frames"] < 10
        assert content["num_frames"] == len(content["frames"])
        assert "cut short" in content["problem"]
        assert_same_as_text(content, out / "cut-partial.txt")
        overlay = out / "cut-partial-overlay.mp4"
        assert len(list(iterate_frames(overlay))) == content["num_frames"]
        assert str(overlay) in printed.out
        (error,) = [line for line in printed.err.splitlines() if line.startswith("error:")]
        assert str(cut_video) in error
        assert error.endswith("what comes before was tracked")

    def test_frames_before_the_break_are_tracked_as_in_the_whole_video(
        self, video: Path, cut_video: Path, model: QDTrack
    ) -> None:
        cut = track_video(open_source(cut_video), model, ASSOCIATION, batch_size=1)
        whole = track_video(
            open_source(video), model, ASSOCIATION, batch_size=1, max_frames=cut.num_frames
        )
        assert len(cut.tracks) > 0
        for name, column in vars(whole.tracks).items():
            assert np.array_equal(column, getattr(cut.tracks, name)), name

    def test_damaged_frames_are_counted_and_used(
        self, video: Path, model: QDTrack, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with av.open(str(video)) as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        data = bytearray(video.read_bytes())
        end = packets[4].pos + packets[4].size
        data[end - 60 : end] = bytes(60)
        path = tmp_path / "damaged.mp4"
        path.write_bytes(data)
        tracked = track_video(open_source(path), model, ASSOCIATION, batch_size=2)
        assert (tracked.num_frames, tracked.problem) == (10, None)
        number = sorted(packet.pts for packet in packets).index(packets[4].pts)
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning == (
            f"{path}: damaged frames: 1, the first is frame {number}; used as far as they decode"
        )

    def test_a_limit_before_the_break_makes_it_whole(
        self, cut_video: Path, weights: Path, tmp_path: Path
    ) -> None:
        assert run(cut_video, weights, tmp_path / "out", "--max-frames", "2") == 0
        assert (tmp_path / "out" / "cut.json").is_file()

    def test_an_interruption_leaves_nothing(
        self, video: Path, model: QDTrack, tmp_path: Path
    ) -> None:
        source = InterruptedSource(path=video, name="a", frame_rate=5, num_frames=10)
        tracked = track_video(source, model, ASSOCIATION, batch_size=4)
        with pytest.raises(KeyboardInterrupt):
            write_results(tracked, tmp_path / "out", weights="none")
        assert os.listdir(tmp_path / "out") == []


class TestFoldersOfImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Five images whose names say their order; the file system's need not be the same."""
        path = tmp_path / "walk"
        path.mkdir()
        images = list(scenery(5))
        for index in (3, 1, 4, 0, 2):
            (path / f"{index:03d}.jpg").write_bytes(encode_jpeg(images[index], 95))
        (path / "notes.txt").write_text("not an image")
        return path

    def test_they_are_tracked_in_order_of_names(
        self, folder: Path, weights: Path, tmp_path: Path
    ) -> None:
        assert run(folder, weights, tmp_path / "out") == 0
        content = read_json(tmp_path / "out" / "walk.json")
        assert [frame["timestamp_us"] for frame in content["frames"]] == [None] * 5
        assert content["frame_rate"] == 5
        assert len(list(iterate_frames(tmp_path / "out" / "walk-overlay.mp4"))) == 5
        read = [image for *_, image in open_source(folder).read()]
        assert [
            round(np.abs(a.astype(float) - b).mean()) < 20
            for a, b in zip(read, scenery(5), strict=True)
        ] == [True] * 5

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (encode_jpeg(np.zeros((64, 96, 3), np.uint8), 90)[:200], "003.jpg"),
            (encode_jpeg(np.zeros((50, 70, 3), np.uint8), 90), "frame 3 is 70 x 50 pixels"),
        ],
        ids=["truncated", "another size"],
    )
    def test_a_broken_image_ends_them(
        self,
        folder: Path,
        weights: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        content: bytes,
        message: str,
    ) -> None:
        (folder / "003.jpg").write_bytes(content)
        assert run(folder, weights, tmp_path / "out") == 1
        assert message in capsys.readouterr().err
        assert read_json(tmp_path / "out" / "walk-partial.json")["num_frames"] == 3

    def test_a_folder_without_images_is_refused(
        self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "empty").mkdir()
        assert run(tmp_path / "empty", weights, tmp_path / "out") == 1
        assert "a folder without .jpg, .jpeg, .png files" in capsys.readouterr().err


class TestCommand:
    @pytest.mark.parametrize("suffix", ["-overlay.mp4", ".txt", ".json", "-partial.txt"])
    def test_existing_results_are_kept_unless_forced(
        self,
        video: Path,
        weights: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        suffix: str,
    ) -> None:
        existing = tmp_path / f"short one{suffix}"
        existing.write_text("mine")
        assert run(video, weights, tmp_path, "--max-frames", "2") == 1
        assert f"{existing}: exists already" in capsys.readouterr().err
        assert os.listdir(tmp_path) == [existing.name]
        assert existing.read_text() == "mine"
        assert run(video, weights, tmp_path, "--force", "--max-frames", "2") == 0
        names = {"short one-overlay.mp4", "short one.json", "short one.txt"}
        assert set(os.listdir(tmp_path)) == names | {existing.name}
        assert read_json(tmp_path / "short one.json")["num_frames"] == 2

    def test_results_lie_under_the_output_root_by_default(
        self,
        video: Path,
        weights: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        arguments = [str(video), "--weights", str(weights), "--max-frames", "1"]
        monkeypatch.setenv("QUASAR_ROOT", str(tmp_path))
        assert command.run(track.main, arguments) == 0
        assert (tmp_path / "tracked" / "short one" / "short one.txt").is_file()
        monkeypatch.setenv("QUASAR_ROOT", "s3://bucket/results")
        assert command.run(track.main, arguments) == 1
        assert "say where with --out DIR" in capsys.readouterr().err

    def test_the_recipe_gives_the_association(
        self, video: Path, weights: Path, tmp_path: Path
    ) -> None:
        arguments = [str(video), "--weights", str(weights), "--max-frames", "1"]
        used = []
        for name, recipe in (("a", []), ("b", ["--recipe", "qdtrack_frcnn_r18_synthetic"])):
            out = ["--out", str(tmp_path / name)]
            assert command.run(track.main, [*arguments, *out, *recipe]) == 0
            used.append(read_json(tmp_path / name / "short one.json")["association"])
        assert [settings["init_score_thr"] for settings in used] == [0.7, 0.8]
        assert [settings["obj_score_thr"] for settings in used] == [0.3, 0.5]

    def test_another_tracker_can_be_chosen(
        self, video: Path, weights: Path, tmp_path: Path
    ) -> None:
        arguments = [str(video), "--weights", str(weights), "--out", str(tmp_path)]
        overlap = ["--set", "association.kind=overlap", "--set", "association.init_score_thr=0.4"]
        assert command.run(track.main, [*arguments, *overlap]) == 0
        content = read_json(tmp_path / "short one.json")
        assert content["association"]["kind"] == "overlap"
        assert len(assert_same_as_text(content, tmp_path / "short one.txt")) > 0

    @pytest.mark.parametrize(
        ("further", "message"),
        [
            (["--set", "association.match_thr=0.5"], "association.match_score_thr"),
            (["--recipe", "qdtrack_frcnn_r50_bdd"], "did you mean qdtrack_frcnn_r50_bdd100k"),
        ],
    )
    def test_settings_that_do_not_fit_are_refused(
        self,
        video: Path,
        weights: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        further: list[str],
        message: str,
    ) -> None:
        out = tmp_path / "out"
        assert run(video, weights, out, *further) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("notes.mp4", b"not a video at all", "cannot be opened as a video"),
            ("empty.mp4", b"", "cannot be opened as a video"),
            ("absent.mp4", None, "no such file"),
        ],
    )
    def test_what_is_no_video_is_refused(
        self,
        weights: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        name: str,
        content: bytes | None,
        message: str,
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert run(tmp_path / name, weights, tmp_path / "out") == 1
        (error,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path / name) in error
        assert message in error
        assert not (tmp_path / "out").exists()

    def test_weights_that_are_not_ours_are_refused(
        self, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        foreign = tmp_path / "qdtrack.pth"
        torch.save({"state_dict": {"a": torch.zeros(1)}}, foreign)
        for path, message in (
            (foreign, "python -m jobs.import_weights"),
            (tmp_path / "absent.safetensors", "No such file"),
        ):
            assert run(video, path, tmp_path / "out") == 1
            (error,) = capsys.readouterr().err.splitlines()
            assert str(path) in error
            assert message in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_that_is_not_there_is_an_error(
        self, video: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(video, weights, tmp_path / "out", "--gpu") == 1
        assert "--gpu: torch finds no CUDA device" in capsys.readouterr().err

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_gpu_finds_what_the_cpu_finds(
        self, video: Path, weights: Path, tmp_path: Path
    ) -> None:
        assert run(video, weights, tmp_path / "gpu", "--gpu") == 0
        assert run(video, weights, tmp_path / "cpu") == 0
        on_gpu, on_cpu = (
            assert_same_as_text(
                read_json(tmp_path / name / "short one.json"), tmp_path / name / "short one.txt"
            )
            for name in ("gpu", "cpu")
        )
        # Untrained scores lie close together, so a few boxes near a threshold may differ.
        assert abs(len(on_gpu) - len(on_cpu)) <= max(3, len(on_cpu) // 10)

    @pytest.mark.parametrize("arguments", [[], ["a.mp4"], ["a.mp4", "--max-frames", "0"]])
    def test_wrong_usage_is_code_2(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            command.run(track.main, arguments)
        assert caught.value.code == 2

    @pytest.mark.slow
    def test_run_by_its_path_from_elsewhere_without_ray(
        self, video: Path, weights: Path, tmp_path: Path, repository: Path
    ) -> None:
        """Ray and MLflow would cost seconds before the first frame."""
        program = (
            "import runpy, sys; sys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as stop: assert stop.code == 0, stop.code\n"
            "print([name for name in ('ray', 'mlflow') if name in sys.modules])"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-c", program, str(repository / "jobs/track.py")),
                *(str(video), "--weights", str(weights), "--out", "here", "--max-frames", "2"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
        assert (tmp_path / "here" / "short one.json").is_file()
        assert os.access(repository / "jobs/track.py", os.X_OK)


def test_flat_boxes_are_in_no_file(video: Path, model: QDTrack, tmp_path: Path) -> None:
    """A detection cut down to a line at the image's edge cannot be written as MOTChallenge text."""
    from pipeline.infer import FrameDetections
    from pipeline.track import _tracks_of

    boxes = np.array([[0, 0, 5, 5], [96, 10, 96, 20], [3, 64, 9, 64], [1, 1, 2, 2]], np.float32)
    found = FrameDetections(
        boxes_xyxy=boxes,
        scores=np.full(4, 0.9, np.float32),
        class_indices=np.zeros(4, np.int16),
        embeddings=np.zeros((4, 2), np.float32),
    )
    tracks = _tracks_of(0, found, np.array([4, 5, 6, -1]), found.scores, 10)
    assert tracks.track_id.tolist() == [4]
    assert tracks.detection_row.tolist() == [10]
    tracked: TrackedVideo = replace(
        track_video(open_source(video), model, ASSOCIATION, batch_size=4, max_frames=1),
        tracks=tracks,
    )
    written = write_results(tracked, tmp_path, weights="none")
    assert len(assert_same_as_text(read_json(written.json), written.text)) == 1
