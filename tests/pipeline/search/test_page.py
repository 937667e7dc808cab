"""The page of a sweep: everything is on it, in order, and nothing that a name holds gets out."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from models.search_space import Interval
from pipeline.search.page import format_sweep, summarise
from pipeline.search.ranking import best_trials
from pipeline.search.study import FinishedTrial
from tests.made_up_study import OWN, REASON, SPACE, make_options, make_study

HOSTILE = "\"'><script>window.hacked = 1</script>"


class _Reader(HTMLParser):
    """Texts of cells by table, and everything that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self._hidden = 0
        self._in_cell = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("style", "script")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


def _page(trials: list[FinishedTrial], num_objectives: int = 1) -> str:
    options = make_options(num_objectives)
    best = best_trials(trials, options.directions)[: options.num_best]
    return format_sweep(
        trials,
        [(trial, trial.metrics) for trial in best],
        trials[0].metrics,
        options,
        study_name="bdd",
        made_by="here",
    )


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def _row(reader: _Reader, name: str) -> list[str]:
    """The first row that begins with a name."""
    return next(row for row in reader.rows if row[:1] == [name])


def test_the_search_and_its_end_are_told() -> None:
    trials = make_study(60)
    text = _read(_page(trials)).text
    counts = [sum(trial.state == state for trial in trials) for state in ("complete", "pruned")]
    for part in (
        "Sweep: bdd",
        f"60: {counts[0]} complete, {counts[1]} pruned, 4 failed",
        "tpe, seed 0, batches of 8",
        "maximize mMOTA",
        "after 8, 23, 67 of 200 sequences the best of 3 trials went on",
        "failed 4 times",
        REASON,
        "chosen by its score on this very split",
        "which all trials have seen",
    ):
        assert part in text


def test_the_best_stand_beside_the_recipe_s_own() -> None:
    trials = make_study(60)
    reader = _read(_page(trials))
    best = best_trials(trials, ["maximize"])[:3]
    assert reader.rows[0] == ["metric", "recipe's own", *(f"trial {t.number}" for t in best)]
    own, *others = _row(reader, "mMOTA")[1:]
    before = trials[0].metrics["mMOTA"]
    assert before is not None
    assert own == f"{before:.2f}"
    for text, trial in zip(others, best, strict=True):
        assert trial.values is not None
        assert trial.number > 0
        assert text == f"{trial.values[0]:.2f}{trial.values[0] - before:+.2f}"
    assert _row(reader, "MOTP")[1:] == ["–"] * 4
    frames = _row(reader, "memo_tracklet_frames")
    assert frames[1:3] == ["1:60:log", "10"]
    assert frames[3] == str(best[0].settings["association.memo_tracklet_frames"])


def test_a_metric_s_best_is_marked_and_equals_are_not() -> None:
    page = _page(make_study(60))

    def marked(name: str) -> int:
        return re.search(rf'<tr><th scope="row">{name}</th>.*?</tr>', page)[0].count('"best"')  # type: ignore[index]

    assert marked("mMOTA") == marked("IDSw") == 1
    assert marked("MOTP") == 0
    line = re.search(r'<tr><th scope="row">IDSw</th>.*?</tr>', page)[0]  # type: ignore[index]
    numbers = [int(text) for text in re.findall(r"<td[^>]*>(\d+)", line)]
    assert re.search(r'"best">(\d+)', line)[1] == str(min(numbers))  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "hint"), [(0.1, "low end"), (0.9, "high end"), (0.89, "high end"), (0.5, "")]
)
def test_a_value_at_an_end_of_its_range_is_pointed_at(value: float, hint: str) -> None:
    trials = make_study(60)
    number = best_trials(trials, ["maximize"])[0].number
    settings = {**trials[number].settings, "association.match_score_thr": value}
    trials[number] = replace(trials[number], settings=settings)
    assert _row(_read(_page(trials)), "match_score_thr")[3] == f"{value:g}{hint}"


def test_every_trial_is_a_row_best_first_and_says_all_of_itself() -> None:
    trials = make_study(60)
    page = _page(trials)
    board = page[page.index("<h2>All trials") :]
    numbers = [int(text) for text in re.findall(r'class="name" data-value="(\d+)"', board)]
    complete = [trial.number for trial in best_trials(trials, ["maximize"])]
    assert numbers[: len(complete)] == complete
    assert sorted(numbers) == list(range(60))
    details = _read(board).text
    assert details.count(REASON) == 4
    assert details.count("held by its tracker") == 60
    value = trials[7].settings["association.match_score_thr"]
    assert f"match_score_thr {value!r}" in details
    pruned = next(trial for trial in trials if len(trial.rungs) == 2)
    assert ", ".join(f"{score:.2f} on {n}" for n, score in pruned.rungs.items()) in details


def test_several_objectives() -> None:
    trials = make_study(60, 3)
    text = _read(_page(trials, 3)).text
    assert "Pareto front" in text
    assert "Of the first two objectives alone" in text
    assert "maximize mMOTA, minimize IDSw, maximize mIDF1" in text
    assert "none, every trial was scored on all sequences" in text


def test_a_study_of_one_trial_says_that_nothing_better_was_found() -> None:
    text = _read(_page(make_study(1))).text
    assert "Nothing better than the recipe's own setting was found: mMOTA " in text
    assert "no chart of what was important" in text
    assert "1: 1 complete, 0 pruned, 0 failed" in text


def test_a_result_without_a_number_is_told_with_a_dash() -> None:
    trial = make_study(9)[8]
    assert "mMOTA – (the recipe's own setting: –)" in summarise([(trial, {})], {}, ["mMOTA"])


def test_names_and_reasons_are_text_whatever_they_hold() -> None:
    trials = [
        replace(
            trial,
            settings={HOSTILE: OWN["association.match_score_thr"]},
            held={HOSTILE: HOSTILE},
            metrics={**trial.metrics, HOSTILE: 1.0} if trial.metrics else {},
            reason=HOSTILE if trial.reason else "",
        )
        for trial in make_study(60)
    ]
    page = format_sweep(
        trials,
        [(trials[0], trials[0].metrics)],
        trials[0].metrics,
        make_options(space={HOSTILE: Interval(0.1, 0.9)}),
        study_name=HOSTILE,
        made_by=HOSTILE,
    )
    assert "<script>window" not in page
    assert _read(page).text.count(HOSTILE) > 60


def test_a_thousand_trials_fit_in_a_page_that_can_be_sent() -> None:
    trials = make_study(40)
    many = [replace(trials[n % 40], number=n) for n in range(1000)]
    assert len(SPACE) == 5
    assert len(_page(many)) < 3_000_000
