"""The page of a sweep in a real browser: it sorts, opens, fits a phone, and nothing complains."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.search.page import format_sweep
from pipeline.search.ranking import best_trials
from tests.made_up_study import make_options, make_study

pytestmark = pytest.mark.browser

NAMES = "[...document.querySelectorAll('.trials .toggle')].map(e => Number(e.textContent))"
CHARTS_IN_VIEW = """
[...document.querySelectorAll('.chart')].every(chart => {
  const outer = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].every(text => {
    const inner = text.getBoundingClientRect();
    return inner.left >= outer.left - 1 && inner.right <= outer.right + 1
      && inner.bottom <= outer.bottom + 1;
  });
})
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page of a study with 60 trials."""
    trials, options = make_study(60), make_options()
    best = best_trials(trials, options.directions)[: options.num_best]
    path = Path(tmp_path_factory.mktemp("sweep")) / "sweep.html"
    text = format_sweep(
        trials,
        [(trial, trial.metrics) for trial in best],
        trials[0].metrics,
        options,
        study_name="bdd100k",
        made_by="here",
    )
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


def test_nothing_complains_and_all_texts_of_the_charts_are_in_view(browser: Any, page: str) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('button').forEach(button => button.click())")
    assert browser.complaints == []
    assert browser.requests == [page]
    assert browser.evaluate("document.querySelectorAll('.chart').length") == 8
    assert browser.evaluate(CHARTS_IN_VIEW)


def test_trials_sort_by_score_number_and_setting(browser: Any, page: str) -> None:
    browser.open(page)
    trials = make_study(60)
    ranked = [trial.number for trial in best_trials(trials, ["maximize"])]

    def click(column: str) -> list[int]:
        header = (
            f"[...document.querySelectorAll('.trials th')].find(e => e.textContent === '{column}')"
        )
        browser.evaluate(f"{header}.querySelector('button').click()")
        numbers: list[int] = browser.evaluate(NAMES)
        return numbers

    assert browser.evaluate(NAMES)[: len(ranked)] == ranked
    assert click("trial") == list(range(60))
    assert click("trial") == list(range(60))[::-1]
    assert click("mMOTA")[: len(ranked)] == ranked
    assert click("mMOTA")[: len(ranked)] == ranked[::-1], "trials without a score stay behind"
    by_threshold = click("match_score_thr")
    values = [trials[number].settings["association.match_score_thr"] for number in by_threshold]
    assert values == sorted(values)


def test_a_trial_opens_to_why_it_failed(browser: Any, page: str) -> None:
    browser.open(page)
    assert not browser.evaluate("document.getElementById('trial-5').offsetHeight > 0")
    browser.evaluate("document.querySelector('[aria-controls=trial-5]').click()")
    assert browser.evaluate("document.getElementById('trial-5').offsetHeight > 0")
    text = browser.evaluate("document.getElementById('trial-5').innerText")
    assert "the tracker did not hold <what> was asked & more" in text


def test_the_heading_of_the_trials_stays_in_view(browser: Any, page: str) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('.trials').scrollTo(0, 500)")
    top = "document.querySelector('{}').getBoundingClientRect().top"
    head, table = top.format(".trials thead th"), top.format(".trials")
    assert browser.evaluate(f"Math.abs({head} - {table}) < 3")


def test_a_phone_scrolls_the_tables_and_not_the_page(browser: Any, page: str) -> None:
    browser.open(page, width=390, height=844)
    browser.evaluate("document.querySelectorAll('.toggle').forEach(button => button.click())")
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    assert browser.evaluate(
        "document.querySelector('.detail-body').getBoundingClientRect().right <= 390"
    )
    assert browser.evaluate(CHARTS_IN_VIEW)


@pytest.mark.parametrize("dark", [False, True])
def test_marks_are_told_from_the_background(browser: Any, page: str, dark: bool) -> None:
    browser.open(page, dark=dark)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    fills = {
        shape: browser.evaluate(f"getComputedStyle(document.querySelector('.{shape} > *')).fill")
        for shape in ("dot", "diamond", "star")
    }
    lines = browser.evaluate("getComputedStyle(document.querySelector('.ring > *')).stroke")
    colours = {*fills.values(), lines}
    assert len(colours) == 4
    assert not colours & {background, "rgb(0, 0, 0)", "none"}
