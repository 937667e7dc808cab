"""Pages as a person meets them, in a real browser: what they show, and that nothing complains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.leaderboard import ResultRow, rank
from pipeline.leaderboard_page import format_html
from tests.browser.contrast import CONTRAST

pytestmark = pytest.mark.browser

HOSTILE = "\"'><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
NAMES = "[...document.querySelectorAll('.entry .toggle')].map(e => e.textContent)"


@pytest.fixture
def page(tmp_path: Path, make_row: Callable[..., ResultRow], full_row: ResultRow) -> str:
    """Address of a page with three rows, one of them hostile."""
    rows = [
        full_row,
        make_row("baseline", kind="baseline", metrics={"mMOTA": 9.5, "FP": 12}, notes=HOSTILE),
        make_row(HOSTILE, kind="bound", metrics={"mMOTA": 80.0, "FP": None, HOSTILE: 1.0}),
    ]
    path = tmp_path / "leaderboard.html"
    path.write_text(format_html(rank(rows), made_by=HOSTILE), encoding="utf-8")
    return path.as_uri()


def test_nothing_complains_and_nothing_is_asked_for(browser: Any, page: str) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('button').forEach(button => button.click())")
    assert browser.complaints == []
    assert browser.requests == [page]
    assert browser.evaluate("window.hacked === undefined")


def test_the_browser_would_notice_a_complaint(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<script>undefinedFunction()</script><img src='missing.png'>")
    browser.open(path.as_uri())
    browser.wait_for("document.readyState === 'complete'")
    assert any("undefinedFunction" in complaint for complaint in browser.complaints)
    assert any("failed request" in complaint for complaint in browser.complaints)


def test_columns_sort_both_ways_with_missing_numbers_last(browser: Any, page: str) -> None:
    browser.open(page)
    original = browser.evaluate(NAMES)
    assert original == [HOSTILE, "QDTrack, all of it", "baseline"]

    def click(column: str) -> tuple[list[str], str]:
        header = (
            f"[...document.querySelectorAll('.board th')].find(e => e.textContent === '{column}')"
        )
        browser.evaluate(f"{header}.querySelector('button').click()")
        return browser.evaluate(NAMES), browser.evaluate(f"{header}.getAttribute('aria-sort')")

    assert click("FP") == (["baseline", "QDTrack, all of it", HOSTILE], "ascending")
    assert click("FP") == (["QDTrack, all of it", "baseline", HOSTILE], "descending")
    assert click("mMOTA") == (original, "descending")
    assert click("mMOTA") == (original[::-1], "ascending")
    assert click("tracker")[0] == sorted(original, key=str.lower)
    assert click("#") == (original, "ascending")
    assert browser.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def test_a_row_opens_and_closes_by_keyboard(browser: Any, page: str) -> None:
    browser.open(page)
    toggle = "document.querySelectorAll('.toggle')[1]"
    shown = f"document.getElementById({toggle}.getAttribute('aria-controls')).offsetHeight > 0"
    assert not browser.evaluate(shown)
    browser.evaluate(f"{toggle}.focus()")
    browser.press_enter()
    assert browser.evaluate(shown)
    assert browser.evaluate(f"{toggle}.getAttribute('aria-expanded')") == "true"
    text = browser.evaluate("document.body.innerText")
    for part in ("trained here (a1b2c3d4e5f60718)", "synthetic data", "By class", "OVERALL"):
        assert part in text
    browser.press_enter()
    assert not browser.evaluate(shown)


def test_a_phone_scrolls_the_table_and_not_the_page(browser: Any, page: str) -> None:
    browser.open(page, width=390, height=844)
    browser.evaluate("document.querySelectorAll('.toggle').forEach(button => button.click())")
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    body = "document.querySelector('.entry.model .detail-body').getBoundingClientRect()"
    assert browser.evaluate(f"{body}.right") <= 390
    scroll = "document.querySelector('.scroll')"
    assert browser.evaluate(f"{scroll}.scrollWidth > {scroll}.clientWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_in_light_and_dark(browser: Any, page: str, dark: bool) -> None:
    browser.open(page, dark=dark)
    browser.evaluate("document.querySelectorAll('.toggle').forEach(button => button.click())")
    ratios = browser.evaluate(CONTRAST)
    assert len(ratios) > 20
    assert min(ratio for _, ratio in ratios) >= 4.5, min(ratios, key=lambda entry: entry[1])
    is_dark = browser.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 80"
    )
    assert is_dark == dark


@pytest.mark.slow
def test_mlflows_own_page_reads_as_a_leaderboard(
    browser: Any, mlflow_server: str, make_row: Callable[..., ResultRow], tmp_path: Path
) -> None:
    from pipeline.runlog import RunLog

    log = RunLog(mlflow_server, str(tmp_path))
    scores = {"second": 20.25, "first": 30.5, "third": 10.75}
    for name, score in scores.items():
        metrics = {"mMOTA": score, "mIDF1": 40.0, "MOTA": 50.0}
        log.log_result(make_row(name, benchmark="shown", metrics=metrics))
    browser.open(log.how_to_view("shown", "val"), width=1800)
    browser.wait_for("document.body.innerText.includes('30.5')")
    cells = "document.querySelectorAll(\".ag-center-cols-container [col-id='metrics.`mMOTA`']\")"
    browser.wait_for(f"{cells}.length === 3")
    rows = browser.evaluate(
        f"[...{cells}].map(e => [e.getBoundingClientRect().top, e.innerText.trim()])"
    )
    assert [text for _, text in sorted(rows)] == ["30.5", "20.25", "10.75"], "best first"
    assert all(browser.evaluate(f"document.body.innerText.includes('{name}')") for name in scores)
