"""The page of a diagnosis in a real browser: clips play, tables sort, phones can read it."""

from typing import Any

import pytest

from pipeline.diagnose import diagnose
from pipeline.diagnosis_page import format_page
from pipeline.overlay import clips_of_errors
from tests.browser.contrast import CONTRAST
from tests.diagnosis_scene import write_result

pytestmark = pytest.mark.browser

OPEN_ALL = (
    "document.querySelectorAll('.toggle').forEach(button => button.click());"
    "document.querySelectorAll('details').forEach(element => element.open = true)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page of a small result with two clips."""
    root = tmp_path_factory.mktemp("root")
    frames, tracks = write_result(root)
    diagnosis = diagnose(frames, tracks)
    clips = clips_of_errors(
        frames,
        tracks,
        diagnosis.protocol.classes,
        diagnosis.worst("switched"),
        limit=2,
        limit_bytes=1 << 20,
    )
    path = root / "diagnosis.html"
    path.write_text(format_page(diagnosis, clips, made_by="made by a test"), encoding="utf-8")
    return path.as_uri()


def test_nothing_complains_and_nothing_is_asked_for(browser: Any, page: str) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('button').forEach(button => button.click())")
    assert browser.complaints == []
    # The buttons of the player are the browser's own pictures.
    assert [url for url in browser.requests if not url.startswith("data:image/svg")] == [page]


def test_clips_show_their_first_frame_and_play(browser: Any, page: str) -> None:
    browser.open(page)
    browser.wait_for("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    shapes = browser.evaluate(
        "[...document.querySelectorAll('video')].map(v => [v.videoWidth > 400, v.duration])"
    )
    assert shapes == [[True, 1.75]] * 2, "seven frames at four a second"
    browser.evaluate("document.querySelector('video').play()")
    browser.wait_for("document.querySelector('video').currentTime > 0.5")
    assert browser.evaluate("document.querySelector('video').error === null")


def test_classes_and_sequences_sort(browser: Any, page: str) -> None:
    browser.open(page)

    def click(table: str, column: str) -> list[str]:
        board = f"document.querySelector('[aria-label=\"{table}\"]')"
        header = f"[...{board}.querySelectorAll('th')].find(e => e.textContent === '{column}')"
        browser.evaluate(f"{header}.querySelector('button').click()")
        return browser.evaluate(
            f"[...{board}.querySelectorAll('.entry > tr:first-child > th')]"
            ".map(e => e.textContent.trim())"
        )

    by_boxes = click("By class", "true boxes")
    assert by_boxes[:2] == ["car", "bus"]
    assert click("By class", "true boxes")[-1] == "car"
    assert click("By class", "class")[0] == "bicycle"
    assert click("By class", "MOTA")[:2] == by_boxes[:2], "classes without a MOTA come last"
    assert click("By sequence", "sequence") == ["val-0", "val-1"]
    assert click("By sequence", "sequence") == ["val-1", "val-0"]


def test_a_sequence_opens_to_its_errors(browser: Any, page: str) -> None:
    browser.open(page)
    detail = "document.getElementById('sequence-0')"
    assert not browser.evaluate(f"{detail}.offsetHeight > 0")
    browser.evaluate("document.querySelector('.toggle').click()")
    assert browser.evaluate(f"{detail}.offsetHeight > 0")
    assert "switched" in browser.evaluate(f"{detail}.innerText")


def test_a_phone_scrolls_the_tables_and_not_the_page(browser: Any, page: str) -> None:
    browser.open(page, width=390, height=844)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    right = "Math.max(...[...document.querySelectorAll('video, .bars')]"
    assert browser.evaluate(f"{right}.map(e => e.getBoundingClientRect().right)) <= 390")


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_in_light_and_dark(browser: Any, page: str, dark: bool) -> None:
    browser.open(page, dark=dark)
    browser.evaluate(OPEN_ALL)
    ratios = browser.evaluate(CONTRAST)
    assert len(ratios) > 100
    assert min(ratio for _, ratio in ratios) >= 4.5, min(ratios, key=lambda entry: entry[1])
    bar = browser.evaluate("getComputedStyle(document.querySelector('.bars rect')).fill")
    assert bar == ("rgb(90, 176, 240)" if dark else "rgb(0, 114, 178)")


def test_without_scripts_everything_can_be_read(browser: Any, page: str) -> None:
    browser.open(page, scripts=False)
    assert browser.evaluate("document.getElementById('sequence-0').offsetHeight > 0")
