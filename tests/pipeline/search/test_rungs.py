"""Order of sequences and the decision who goes on."""

import numpy as np
import pytest

from pipeline.search.rungs import promoted, rung_sizes, stratified_order


def test_every_beginning_of_the_order_resembles_the_whole() -> None:
    rng = np.random.default_rng(0)
    # Half of the sequences are crowded; one class is in every tenth sequence only.
    features = {
        f"s{i:03d}": [float(rng.poisson(80 if i % 2 else 4)), 20.0 * (i % 10 == 0), 3.0]
        for i in range(120)
    }
    order = stratified_order(features, seed=1)
    assert sorted(order) == sorted(features)
    mean = np.mean(list(features.values()), axis=0)
    for count in (10, 20, 40):
        chosen = np.mean([features[name] for name in order[:count]], axis=0)
        assert np.allclose(chosen, mean, rtol=0.1), count
    # In the order of names the same beginning is far off, and so is a plain shuffle.
    assert not np.allclose(
        np.mean([features[n] for n in sorted(features)[:9]], axis=0), mean, rtol=0.1
    )


def test_the_order_is_fixed_by_the_seed_and_not_by_the_mapping() -> None:
    features = {f"s{i}": [1.0] for i in range(20)}
    backwards = dict(reversed(features.items()))
    assert stratified_order(features, seed=3) == stratified_order(backwards, seed=3)
    assert stratified_order(features, seed=3) != stratified_order(features, seed=4)
    assert stratified_order(features, seed=3) != sorted(features)


def test_features_that_are_zero_everywhere_do_not_matter() -> None:
    assert stratified_order({"a": [0.0], "b": [0.0]}, seed=0) in (["a", "b"], ["b", "a"])
    assert stratified_order({}, seed=0) == []


@pytest.mark.parametrize(
    ("num_sequences", "sizes"),
    [(1, [1]), (3, [3]), (11, [4, 11]), (12, [4, 12]), (200, [8, 23, 67, 200])],
)
def test_rungs_grow_by_three_and_end_with_all(num_sequences: int, sizes: list[int]) -> None:
    assert rung_sizes(num_sequences, is_pruned=True) == sizes
    assert rung_sizes(num_sequences, is_pruned=False) == [num_sequences]


@pytest.mark.parametrize(
    ("scores", "earlier", "maximise", "expected"),
    [
        ({}, [], True, set()),
        ({4: 1.0}, [], True, {4}),
        ({4: 1.0, 5: 2.0, 6: 3.0}, [], True, {6}),
        ({4: 1.0, 5: 2.0, 6: 3.0}, [], False, {4}),
        ({4: 1.0, 5: 1.0, 6: 1.0}, [], True, {4, 5, 6}),
        ({4: 1.0, 5: 2.0}, [9.0, 8.0, 7.0], True, set()),
        ({4: 8.0, 5: 2.0}, [9.0, 5.0, 5.0, 5.0], True, {4}),
    ],
)
def test_the_best_third_of_all_so_far_goes_on(
    scores: dict[int, float], earlier: list[float], maximise: bool, expected: set[int]
) -> None:
    assert promoted(scores, earlier, maximise=maximise) == expected
