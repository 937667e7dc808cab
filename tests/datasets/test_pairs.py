"""The plan of training pairs: what it promises, checked by brute force on small random scenes."""

import time
from collections import Counter, defaultdict

import numpy as np
import pytest

from datasets.pairs import (
    EpochPlan,
    PairIndex,
    PairSequence,
    index_pairs,
    pair_generator,
    plan_epoch,
)
from datasets.transforms import TrainingTargets

Pair = tuple[str, int, int]


def targets(frames: list[list[int]]) -> TrainingTargets:
    """Targets whose frames show the listed identities."""
    counts = [len(frame) for frame in frames]
    total = sum(counts)
    return TrainingTargets(
        frame_offsets=np.cumsum([0, *counts]),
        boxes_xyxy=np.zeros((total, 4), np.float32),
        class_indices=np.zeros(total, np.int16),
        identities=np.array([i for frame in frames for i in frame], np.int64),
    )


def random_frames(rng: np.random.Generator, num_frames: int) -> list[list[int]]:
    """Identities that come, stay some frames and go, with empty frames in between."""
    frames: list[list[int]] = [[] for _ in range(num_frames)]
    for identity in range(num_frames // 2):
        start = int(rng.integers(num_frames))
        for frame in range(start, min(num_frames, start + int(rng.integers(1, 6)))):
            frames[frame].append(identity)
    return frames


def scenes(seed: int = 0) -> list[PairSequence]:
    rng = np.random.default_rng(seed)
    videos = [
        PairSequence(name=f"video-{i}", targets=targets(random_frames(rng, int(n))))
        for i, n in enumerate(rng.integers(1, 40, 12))
    ]
    stills = PairSequence(
        name="stills", targets=targets([[0, 1], [], [0], [0, 1, 2]]), is_still=True
    )
    return [*videos, stills]


def shows(sequence: PairSequence, frame: int) -> set[int]:
    return set(sequence.targets.identities[sequence.targets.rows(frame)].tolist())


def allowed(sequences: list[PairSequence], scope: int) -> dict[tuple[str, int], set[int]]:
    """Brute force: every key with its possible references."""
    found: dict[tuple[str, int], set[int]] = defaultdict(set)
    for sequence in sequences:
        usable = set(range(sequence.targets.num_frames)) - set(sequence.broken_frames)
        for key in usable:
            for reference in usable:
                same = sequence.is_still or scope == 0
                near = reference == key if same else 0 < abs(reference - key) <= scope
                if near and shows(sequence, key) & shows(sequence, reference):
                    found[sequence.name, key].add(reference)
    return dict(found)


def pairs_of(index: PairIndex, plan: EpochPlan) -> list[list[Pair]]:
    """The pairs of every step."""
    columns = (plan.sequence_index, plan.key_frames, plan.reference_frames)
    return [
        [(index.names[s], int(k), int(r)) for s, k, r in zip(*step, strict=True)]
        for step in zip(*columns, strict=True)
    ]


def plan(index: PairIndex, epoch: int = 0, *, seed: int = 7, pairs: int = 4) -> EpochPlan:
    return plan_epoch(index, seed=seed, epoch=epoch, pairs_per_step=pairs, buffer=16)


@pytest.mark.parametrize("scope", [0, 1, 3])
@pytest.mark.parametrize("window", [1, 5, 100])
def test_every_key_once_with_an_allowed_reference(scope: int, window: int) -> None:
    sequences = scenes()
    expected = allowed(sequences, scope)
    index = index_pairs(sequences, scope=scope, window=window)
    assert len(index) == len(expected)
    for epoch in range(3):
        planned = [pair for step in pairs_of(index, plan(index, epoch)) for pair in step]
        keys = Counter((name, key) for name, key, _ in planned)
        assert max(keys.values()) == 1
        assert len(planned) == len(expected) - len(expected) % 4
        assert plan(index, epoch).num_left_out == len(expected) % 4
        for name, key, reference in planned:
            assert reference in expected[name, key]


def test_every_allowed_reference_is_drawn_equally_often() -> None:
    sequence = PairSequence(name="v", targets=targets([[1]] * 7))
    index = index_pairs([sequence], scope=3, window=100)
    drawn: dict[int, Counter[int]] = defaultdict(Counter)
    for epoch in range(1000):
        for step in pairs_of(index, plan(index, epoch, pairs=7)):
            for _, key, reference in step:
                drawn[key][reference] += 1
    assert set(drawn[0]) == {1, 2, 3}
    assert set(drawn[3]) == {0, 1, 2, 4, 5, 6}
    assert set(drawn[6]) == {3, 4, 5}
    for counts in drawn.values():
        expected = 1000 / len(counts)
        assert all(abs(n - expected) < 4 * expected**0.5 for n in counts.values())


def test_frames_without_a_partner_are_counted() -> None:
    frames = [[1], [1, 2], [], [5], [6]]
    index = index_pairs([PairSequence(name="v", targets=targets(frames))], scope=1, window=10)
    assert index.key_frames.tolist() == [0, 1]
    assert (index.num_without_boxes, index.num_without_reference) == (1, 2)


def test_broken_frames_are_in_no_pair() -> None:
    frames = [[1], [1], [1], [1]]
    sequence = PairSequence(name="v", targets=targets(frames), broken_frames=[1])
    index = index_pairs([sequence], scope=1, window=10)
    assert index.key_frames.tolist() == [2, 3]
    for epoch in range(10):
        for step in pairs_of(index, plan(index, epoch, pairs=2)):
            assert {pair[2] for pair in step} == {2, 3}


def test_identities_never_match_across_sequences() -> None:
    lone = [PairSequence(name=f"v{i}", targets=targets([[1]])) for i in range(5)]
    assert len(index_pairs(lone, scope=3, window=2)) == 0


@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_steps_do_not_depend_on_the_number_of_workers(num_workers: int) -> None:
    index = index_pairs(scenes(), scope=3, window=5)
    whole = plan(index, pairs=8)
    shares = [whole.for_worker(rank, num_workers) for rank in range(num_workers)]
    for name in ("sequence_index", "key_frames", "reference_frames"):
        joined = np.concatenate([getattr(share, name) for share in shares], axis=1)
        np.testing.assert_array_equal(joined, getattr(whole, name))
    assert {len(share.key_frames) for share in shares} == {whole.num_steps}


def test_workers_must_divide_the_step() -> None:
    index = index_pairs(scenes(), scope=3, window=5)
    with pytest.raises(ValueError, match="8 pairs per step do not divide over 3 workers"):
        plan(index, pairs=8).for_worker(0, 3)


@pytest.mark.parametrize("start_step", [0, 1, 7])
def test_resuming_is_the_rest_of_the_same_plan(start_step: int) -> None:
    index = index_pairs(scenes(), scope=3, window=5)
    whole = plan(index).for_worker(1, 2)
    rest = plan(index).for_worker(1, 2, start_step=start_step)
    np.testing.assert_array_equal(rest.key_frames, whole.key_frames[start_step:])
    np.testing.assert_array_equal(rest.reference_frames, whole.reference_frames[start_step:])


@pytest.mark.parametrize("start_step", [0, 5])
def test_reads_hold_every_frame_and_come_in_order_of_need(start_step: int) -> None:
    index = index_pairs(scenes(), scope=3, window=5)
    share = plan(index).for_worker(0, 2, start_step=start_step)
    first_need = []
    for row in np.ndindex(share.key_frames.shape):
        read = share.reads[share.read_index[row]]
        assert read.sequence_index == share.sequence_index[row]
        assert read.start <= share.key_frames[row] < read.stop
        assert read.start <= share.reference_frames[row] < read.stop
        first_need.append(int(share.read_index[row]))
    seen = list(dict.fromkeys(first_need))
    assert seen == list(range(len(share.reads)))
    assert all(read.stop - read.start <= 5 + 2 * 3 for read in share.reads)


def test_few_windows_are_open_at_a_time() -> None:
    videos = [PairSequence(name=f"v{i}", targets=targets([[1]] * 100)) for i in range(50)]
    index = index_pairs(videos, scope=3, window=10)
    share = plan_epoch(index, seed=1, epoch=0, pairs_per_step=4, buffer=20).for_worker(0, 1)
    lanes = share.read_index.T
    for lane in lanes:
        last = {int(read): step for step, read in enumerate(lane)}
        first = {int(read): step for step, read in reversed(list(enumerate(lane)))}
        for step in range(len(lane)):
            open_windows = [r for r in last if first[r] <= step <= last[r]]
            assert len(open_windows) <= 20 // 10 + 2


def test_a_step_mixes_sequences() -> None:
    videos = [PairSequence(name=f"v{i}", targets=targets([[1]] * 60)) for i in range(40)]
    index = index_pairs(videos, scope=3, window=20)
    steps = pairs_of(index, plan_epoch(index, seed=1, epoch=0, pairs_per_step=8, buffer=64))
    distinct = [len({name for name, _, _ in step}) for step in steps]
    assert np.mean(distinct) > 7


def test_epochs_and_seeds_differ_and_repeat() -> None:
    index = index_pairs(scenes(), scope=3, window=5)
    first = pairs_of(index, plan(index, 0))
    assert first == pairs_of(index_pairs(scenes(), scope=3, window=5), plan(index, 0))
    assert first != pairs_of(index, plan(index, 1))
    assert first != pairs_of(index, plan(index, 0, seed=8))


def test_other_pairs_are_left_out_in_other_epochs() -> None:
    index = index_pairs(scenes(), scope=3, window=5)
    everything = set(zip(index.sequence_index.tolist(), index.key_frames.tolist(), strict=True))
    left_out = []
    for epoch in range(4):
        found = plan(index, epoch, pairs=32)
        planned = zip(
            found.sequence_index.ravel().tolist(), found.key_frames.ravel().tolist(), strict=True
        )
        left_out.append(frozenset(everything - set(planned)))
        assert len(left_out[-1]) == found.num_left_out > 0
    assert len(set(left_out)) > 1


def test_references_do_not_depend_on_the_other_sequences() -> None:
    alone = index_pairs(scenes()[:1], scope=3, window=5)
    among = index_pairs(scenes()[::-1], scope=3, window=9)
    name = scenes()[0].name

    def drawn(index: PairIndex) -> set[Pair]:
        found = plan_epoch(index, seed=7, epoch=2, pairs_per_step=1, buffer=1)
        return {pair for step in pairs_of(index, found) for pair in step if pair[0] == name}

    assert drawn(alone) == drawn(among) != set()


def test_augmentation_is_seeded_by_what_the_pair_is() -> None:
    base = pair_generator(1, 2, "v", 3).random()
    assert pair_generator(1, 2, "v", 3).random() == base
    others = [(0, 2, "v", 3), (1, 0, "v", 3), (1, 2, "w", 3), (1, 2, "v", 4)]
    assert all(pair_generator(*other).random() != base for other in others)


def test_too_few_pairs_say_why() -> None:
    index = index_pairs(
        [PairSequence(name="v", targets=targets([[1], [1], [9], []]))], scope=1, window=5
    )
    with pytest.raises(ValueError, match=r"2 training pairs are fewer than the 4 of one step \(1"):
        plan(index)


def test_no_sequences_give_an_empty_index() -> None:
    assert len(index_pairs([], scope=3, window=5)) == 0


def test_names_must_be_unique() -> None:
    with pytest.raises(ValueError, match="'v' is listed twice"):
        index_pairs([PairSequence(name="v", targets=targets([[1]]))] * 2, scope=1, window=5)


def test_the_size_of_bdd100k_is_planned_in_seconds() -> None:
    rng = np.random.default_rng(0)
    videos = [
        PairSequence(name=f"v{i}", targets=targets(random_frames(rng, 200))) for i in range(20)
    ]
    many = [PairSequence(name=f"v{i}", targets=videos[i % 20].targets) for i in range(1400)]
    stills = PairSequence(name="stills", targets=targets([[0, 1]] * 70_000), is_still=True)
    started = time.process_time()
    index = index_pairs([*many, stills], scope=3, window=32)
    found = plan_epoch(index, seed=0, epoch=3, pairs_per_step=16, buffer=256)
    found.for_worker(0, 8)
    assert len(index) > 200_000
    assert time.process_time() - started < 3
