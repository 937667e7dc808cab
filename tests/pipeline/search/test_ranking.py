"""Which trials are best."""

import pytest

from pipeline.search.ranking import best_trials
from pipeline.search.study import FinishedTrial


def make(number: int, *values: float, state: str = "complete") -> FinishedTrial:
    return FinishedTrial(
        number=number,
        state=state,  # type: ignore[arg-type]
        settings={},
        values=values if state == "complete" else None,
    )


@pytest.mark.parametrize(
    ("trials", "directions", "expected"),
    [
        ([], ["maximize"], []),
        ([make(0, 3.0), make(1, 5.0), make(2, 4.0)], ["maximize"], [1, 2, 0]),
        ([make(0, 3.0), make(1, 5.0), make(2, 4.0)], ["minimize"], [0, 2, 1]),
        ([make(0, 3.0), make(1, 3.0)], ["maximize"], [0, 1]),
        ([make(0, 1.0), make(1, state="pruned"), make(2, state="failed")], ["maximize"], [0]),
        (
            [make(0, 3.0, 9.0), make(1, 5.0, 9.0), make(2, 4.0, 2.0), make(3, 2.0, 2.0)],
            ["maximize", "minimize"],
            [1, 2],
        ),
        ([make(0, 1.0, 1.0), make(1, 1.0, 1.0)], ["maximize", "maximize"], [0]),
        ([make(0, 1.0, 2.0, 3.0), make(1, 3.0, 2.0, 1.0)], ["maximize"] * 3, [1, 0]),
    ],
)
def test_the_best_stand_first_and_a_front_holds_what_none_beats(
    trials: list[FinishedTrial], directions: list[str], expected: list[int]
) -> None:
    assert [trial.number for trial in best_trials(trials, directions)] == expected
