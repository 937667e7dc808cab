"""Training the association: which items a step takes, how a network is judged, and going on."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.baselines.mask_overlap import MaskOverlapConfig
from models.pointtrack.association import PointTrackerConfig
from models.pointtrack.config import AssociationTrainConfig
from models.pointtrack.items import ItemArrays, ItemConfig
from models.pointtrack.network import PointTrackNet
from models.pointtrack.schedule import ScheduleConfig
from pipeline.associate import associate
from pipeline.association_training import (
    SCORE,
    AssociationLearner,
    TrackingScorer,
    initial_network,
    iterate_items,
    read_tracks_of,
    train_association,
)
from pipeline.evaluate import EvaluationConfig
from pipeline.prepared_rows import InstanceRows
from pipeline.scores import read_report, score
from pipeline.segment import EmbedConfig, embed_masks, take_truth
from pipeline.store import Artefact
from pipeline.training_loop import BestBy, Checkpoint, Hooks, StepPlace, run_training
from tests.point_scene import (
    EMBEDDER,
    cut_instances,
    make_embedder,
    store_network,
    write_scenes,
)
from tests.training_scene import assert_same_state

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TINY = AssociationTrainConfig(
    items_per_step=2,
    items=ItemConfig(num_tracks=3, max_gap=2),
    schedule=ScheduleConfig(epochs=2, items_per_epoch=6, step_epochs=(2,)),
)
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return write_scenes(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def instances(frames: Artefact) -> Artefact:
    return cut_instances(frames)


@pytest.fixture(scope="module")
def truth(frames: Artefact) -> Artefact:
    return take_truth(frames, "car")


@pytest.fixture(scope="module")
def scorer(frames: Artefact, truth: Artefact) -> TrackingScorer:
    return TrackingScorer(
        frames=frames,
        detections=truth,
        class_name="car",
        num_sequences=None,
        embed=EmbedConfig(),
        association=PointTrackerConfig(),
        evaluation=EvaluationConfig(protocol="kitti_mots"),
    )


def walk(
    instances: Artefact, config: AssociationTrainConfig, **place: int
) -> list[list[ItemArrays]]:
    rows, tracks = InstanceRows([instances]), read_tracks_of(instances)
    return list(iterate_items(rows, tracks, EMBEDDER, config, **place))


def names(steps: list[list[ItemArrays]]) -> list[list[bytes]]:
    """Every item as its bytes."""
    return [[b"".join(a.tobytes() for a in item) for item in items] for items in steps]


class TestTracks:
    def test_entries_are_rows_in_order_of_appearance(self, instances: Artefact) -> None:
        tracks, rows = read_tracks_of(instances), InstanceRows([instances])
        assert list(tracks) == ["0000_1001", "0000_1002", "0001_1001"]
        assert [[e.frame_index for e in track] for track in tracks.values()] == [
            [0, 1, 2, 3, 4],
            [0, 1, 2, 3, 4],
            [1, 3],
        ]
        keys = list(rows.keys())
        for name, track in tracks.items():
            for entry in track:
                sequence, frame_index, identity = keys[entry.entry]
                assert f"{sequence}_{identity}" == name
                assert frame_index == entry.frame_index
                assert rows.row(entry.entry).identity == identity


class TestItems:
    def test_all_epochs_in_steps_of_one_size(self, instances: Artefact) -> None:
        steps = walk(instances, TINY)
        assert [len(items) for items in steps] == [2] * 6
        assert len({name for step in names(steps) for name in step}) == 12
        for item in (item for items in steps for item in items):
            assert item.points.shape == (8, 18, 8)  # three tracks: 3 + 3 + 2 crops
            assert sorted(item.labels.tolist()) in (
                [1, 1, 1, 2, 2, 2, 3, 3],
                [1] * 3 + [2] * 2 + [3] * 3,
                [1, 1, 2, 2, 2, 3, 3, 3],
            )

    def test_two_workers_share_what_one_has(self, instances: Artefact) -> None:
        alone = names(walk(instances, TINY))
        ranks = [names(walk(instances, TINY, rank=rank, num_workers=2)) for rank in range(2)]
        for step, first, second in zip(alone, *ranks, strict=True):
            assert [*first, *second] == step

    def test_going_on_anywhere_gives_the_rest(self, instances: Artefact) -> None:
        whole = names(walk(instances, TINY))
        for start_step in range(7):
            assert names(walk(instances, TINY, start_step=start_step)) == whole[start_step:]

    def test_how_items_are_shared_out_does_not_change_them(self, instances: Artefact) -> None:
        """Items are numbered within an epoch, whatever the size of a step."""
        flat = [name for step in names(walk(instances, TINY)) for name in step]
        single = names(walk(instances, replace(TINY, items_per_step=1)))
        assert [name for step in single for name in step] == flat

    def test_what_does_not_fill_a_step_is_left_over(self, instances: Artefact) -> None:
        steps = walk(instances, replace(TINY, items_per_step=4))
        assert [len(items) for items in steps] == [4, 4]

    def test_another_seed_is_another_training(self, instances: Artefact) -> None:
        first, other = (names(walk(instances, replace(TINY, seed=seed))) for seed in (0, 1))
        assert not {n for step in first for n in step} & {n for step in other for n in step}

    def test_colours_are_bgr(self, instances: Artefact) -> None:
        """The car 1001 is (230, 40, 20) red green blue; foreground points come first."""
        [item, *_] = walk(instances, TINY)[0]
        colours = np.unique((item.points[:, :12, :3] * 255).round().reshape(-1, 3), axis=0)
        assert {tuple(colour) for colour in colours.tolist()} == {(20, 40, 230), (90, 220, 30)}


def test_networks_start_from_the_seed_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = initial_network(EMBEDDER, TINY)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(8)
    assert_same_state(first.state_dict(), initial_network(EMBEDDER, TINY).state_dict())
    other = initial_network(EMBEDDER, replace(TINY, seed=1))
    assert not torch.equal(first.output.weight, other.output.weight)


class TestScorer:
    def test_it_scores_as_the_stages_do(
        self, frames: Artefact, truth: Artefact, scorer: TrackingScorer, tmp_path: Path
    ) -> None:
        model = make_embedder()
        found = pickle.loads(pickle.dumps(scorer))(model.train(), 0)
        assert not model.training
        weights = store_network(tmp_path, make_embedder(), "embedder")
        detections = embed_masks(frames, truth, weights, EmbedConfig())
        tracks = associate(detections, PointTrackerConfig())
        report = read_report(score(frames, tracks, EvaluationConfig(protocol="kitti_mots")))
        assert found == {
            f"validation/{name}": report.metrics["car"][name]
            for name in ("sMOTSA", "MOTSA", "HOTA", "IDS")
        }
        assert SCORE in found
        assert found[SCORE] > 50
        assert all(type(value) is float for value in found.values())  # for checkpoints

    def test_it_sees_the_first_sequences_only(self, scorer: TrackingScorer) -> None:
        never = replace(scorer, association=MaskOverlapConfig())
        assert scorer(make_embedder(), 0) == replace(scorer, num_sequences=9)(make_embedder(), 0)
        assert replace(scorer, num_sequences=0)(make_embedder(), 0) == {}
        assert replace(never, num_sequences=1)(make_embedder(), 0)["validation/IDS"] == 0

    def test_sequences_without_the_class_give_numbers_too(
        self, frames: Artefact, scorer: TrackingScorer, tmp_path: Path
    ) -> None:
        empty = write_scenes(tmp_path, {"0007": ({}, {})})
        alone = replace(scorer, frames=empty, detections=take_truth(empty, "car"))
        found = alone(make_embedder(), 0)
        assert set(found) == set(scorer(make_embedder(), 0))

    def test_it_judges_without_touching_the_weights(self, scorer: TrackingScorer) -> None:
        model = make_embedder().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        assert scorer(model, 0) == scorer(model.train(), 5)
        assert_same_state(before, model.state_dict())
        assert torch.equal(state, torch.get_rng_state())


class Record:
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.checkpoints: dict[int, bytes] = {}

    def checkpoint(self, step: int) -> Checkpoint:
        loaded: Checkpoint = torch.load(io.BytesIO(self.checkpoints[step]), weights_only=True)
        return loaded

    def keep(self, checkpoint: Checkpoint | None) -> None:
        assert checkpoint is not None
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        self.checkpoints[checkpoint["schedule"]["step"]] = buffer.getvalue()


def run_here(
    instances: Artefact,
    scorer: TrackingScorer | None,
    checkpoint: Checkpoint | None = None,
    scores: Mapping[int, float] | None = None,
) -> tuple[dict[str, Tensor], Record]:
    learner, record = AssociationLearner(initial_network(EMBEDDER, TINY), TINY), Record()
    rows, tracks = InstanceRows([instances]), read_tracks_of(instances)

    def judge(model: PointTrackNet, epoch: int) -> dict[str, float]:
        if scores is not None:
            return {SCORE: scores[epoch]}
        return scorer(model, epoch) if scorer is not None else {}

    run_training(
        learner,
        lambda start: iterate_items(rows, tracks, EMBEDDER, TINY, start_step=start),
        steps_per_epoch=STEPS_PER_EPOCH,
        device=CPU,
        hooks=Hooks(
            on_step=lambda step, row: record.rows.update({step: row}),
            on_checkpoint=record.keep,
            on_epoch_end=judge,
        ),
        checkpoint_every=2,
        checkpoint=checkpoint,
    )
    return learner.model.state_dict(), record


def losses(record: Record) -> dict[int, tuple[float, float | None]]:
    return {step: (row["total"], row.get(SCORE)) for step, row in record.rows.items()}


@pytest.fixture(scope="module")
def uninterrupted(instances: Artefact, scorer: TrackingScorer) -> tuple[dict[str, Tensor], Record]:
    torch.set_num_threads(1)
    return run_here(instances, scorer)


class TestLoop:
    @pytest.mark.parametrize("step", [2, 3, 4, 6])
    def test_resuming_gives_the_same_bits(
        self,
        instances: Artefact,
        scorer: TrackingScorer,
        uninterrupted: tuple[dict[str, Tensor], Record],
        step: int,
    ) -> None:
        state, record = uninterrupted
        assert list(record.checkpoints) == [2, 3, 4, 6]
        resumed, rest = run_here(instances, scorer, record.checkpoint(step))
        assert_same_state(resumed, state)
        assert losses(rest) == {s: v for s, v in losses(record).items() if s > step}

    def test_the_state_that_tracks_best_is_kept(self, instances: Artefact) -> None:
        for scores, step in (({0: 60.0, 1: 50.0}, 3), ({0: 50.0, 1: 60.0}, 6)):
            state, record = run_here(instances, None, scores=scores)
            assert_same_state(state, record.checkpoint(step)["model"])
        last, record = run_here(instances, None)
        assert_same_state(last, record.checkpoint(6)["model"])

    def test_rows_say_what_is_trained(
        self, uninterrupted: tuple[dict[str, Tensor], Record]
    ) -> None:
        _, record = uninterrupted
        assert set(record.rows[1]) == {
            *("total", "skipped", "crops"),
            *("learning_rate", "epoch", "items_per_s", "data_wait_share"),
        }
        assert [record.rows[s]["learning_rate"] for s in (1, 3, 4, 6)] == pytest.approx(
            [2e-3, 2e-3, 2e-4, 2e-4]
        )
        assert record.rows[1]["crops"] == 8
        assert SCORE in record.rows[3]
        config = record.checkpoint(4)["config"]
        assert config["model"]["num_points"] == 12
        assert config["train"]["items"]["num_tracks"] == 3

    def test_the_learner_passes_the_margin_and_the_rate(self, instances: Artefact) -> None:
        [items, *_] = walk(instances, TINY)
        totals = []
        for margin in (0.2, 50.0):
            model = initial_network(replace(EMBEDDER, margin=margin), TINY)
            learner = AssociationLearner(model, TINY)
            learner.start_training()
            found = learner.train_step(
                model,
                items,
                learner.build_optimizer(),
                learner.build_scaler(CPU),
                StepPlace(0, 0, 1e-3, CPU),
            )
            totals.append(found["total"])
        assert totals[1] == pytest.approx(50, abs=5)
        assert totals[0] < 5
        assert learner.best_by == BestBy("validation/sMOTSA", "highest")


# Two workers without Ray


def _train_on_rank(rank: int, port_file: str, instances: Artefact, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{port_file}", rank=rank, world_size=2
    )
    config = replace(TINY, items_per_step=4, schedule=replace(TINY.schedule, epochs=1))
    learner = AssociationLearner(initial_network(EMBEDDER, config), config)
    rows, tracks = InstanceRows([instances]), read_tracks_of(instances)
    found: list[dict[str, float]] = []
    run_training(
        learner,
        lambda start: iterate_items(
            rows, tracks, EMBEDDER, config, start_step=start, rank=rank, num_workers=2
        ),
        steps_per_epoch=1,
        device=CPU,
        hooks=Hooks(on_step=lambda step, row: found.append(row)),
        checkpoint_every=100,
    )
    gradients = {name: value.grad for name, value in learner.model.named_parameters()}
    parameters = {name: value.detach() for name, value in learner.model.named_parameters()}
    # One of the two has a loss: neither may skip; none has: both do.
    place = StepPlace(1, rank, 1e-3, CPU)
    [items, *_] = walk(instances, config, rank=rank, num_workers=2)
    alone = [item._replace(labels=np.ones_like(item.labels)) for item in items]
    optimizer, scaler = learner.build_optimizer(), learner.build_scaler(CPU)
    module = torch.nn.parallel.DistributedDataParallel(learner.model)
    skipped = [
        learner.train_step(module, given, optimizer, scaler, place)["skipped"]
        for given in (items if rank else alone, alone)
    ]
    state = {"gradients": gradients, "parameters": parameters, "rows": found, "skipped": skipped}
    torch.save(state, f"{folder}/rank-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_average_over_all_items(instances: Artefact, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(
        _train_on_rank, args=(str(tmp_path / "port"), instances, str(tmp_path)), nprocs=2
    )
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same_state(ranks[0]["parameters"], ranks[1]["parameters"])
    assert [one["skipped"] for one in ranks] == [[0.0, 1.0]] * 2
    config = replace(TINY, items_per_step=4, schedule=replace(TINY.schedule, epochs=1))
    model = initial_network(EMBEDDER, config)
    learner = AssociationLearner(model, config)
    learner.start_training()
    [items] = walk(instances, config)
    alone = learner.train_step(
        model,
        items,
        learner.build_optimizer(),
        learner.build_scaler(CPU),
        StepPlace(0, 0, 2e-3, CPU),
    )
    assert ranks[0]["rows"][0]["total"] == pytest.approx(alone["total"], rel=1e-5)
    largest = max(float(g.abs().max()) for g in ranks[0]["gradients"].values())
    for name, value in model.named_parameters():
        found = ranks[0]["gradients"][name]
        assert torch.allclose(found, value.grad, rtol=1e-3, atol=1e-5 * largest), name


class TestWhole:
    def test_items_that_do_not_divide_over_the_workers(self, instances: Artefact) -> None:
        with pytest.raises(ValueError, match="items_per_step is 2, which does not divide over 3"):
            train_association(instances, EMBEDDER, TINY, num_workers=3)

    def test_what_it_is_judged_by_is_part_of_its_name(
        self, instances: Artefact, scorer: TrackingScorer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The names alone: nothing is trained."""
        found: list[str] = []

        def note(artefact: Artefact) -> bool:
            found.append(artefact.fingerprint)
            return True

        monkeypatch.setattr(Artefact, "is_complete", note)
        other_tracker = replace(scorer, association=PointTrackerConfig(keep_alive_frames=5))
        other_masks = replace(scorer, detections=replace(scorer.detections, fingerprint="7" * 16))
        cases: list[tuple[AssociationTrainConfig, TrackingScorer | None]] = [
            (TINY, scorer),
            (TINY, None),
            (TINY, other_tracker),
            (TINY, other_masks),
            (replace(TINY, seed=1), scorer),
            (replace(TINY, validation_sequences=1), scorer),
            (replace(TINY, validation_sequences=0), scorer),
        ]
        for config, judge in cases:
            train_association(instances, EMBEDDER, config, score_epoch=judge)
        train_association(instances, replace(EMBEDDER, margin=0.3), TINY, score_epoch=scorer)
        moved = replace(instances, fingerprint="6" * 16)
        train_association(moved, EMBEDDER, TINY, score_epoch=scorer)
        assert len(set(found)) == len(found) == 9
        train_association(
            instances, EMBEDDER, replace(TINY, validation_sequences=0), score_epoch=None
        )
        assert found[-1] == found[6]  # who is not asked does not count


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_one_track_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    frames = write_scenes(tmp_path, {"0001": ({1001: (4, 20, 4, 20)}, {1001: (4, 20, 6, 22)})})
    with pytest.raises(ValueError, match="kitti/train: 1 tracks of car, expected at least 2"):
        train_association(cut_instances(frames), EMBEDDER, TINY)


def test_the_learner_is_what_the_loop_expects() -> None:
    learner: Any = AssociationLearner(initial_network(EMBEDDER, TINY), TINY)
    assert (learner.unit, learner.units_per_step, learner.epochs) == ("items", 2, 2)
    assert not learner.build_scaler(CPU).is_enabled()
