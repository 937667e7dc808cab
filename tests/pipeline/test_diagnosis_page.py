"""The page of a diagnosis as text: what is in it, escaped; how it looks is for tests/browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.diagnose import diagnose
from pipeline.diagnosis import Bound, Diagnosis
from pipeline.diagnosis_page import ERRORS_A_SEQUENCE, format_page
from pipeline.errors import CAUSES, MEANING
from pipeline.wording import in_words
from tests.diagnosis_scene import write_result

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    return diagnose(*write_result(tmp_path_factory.mktemp("root")))


class _Balance(HTMLParser):
    """Complains about elements that are not closed in order."""

    EMPTY = frozenset({"meta", "link", "rect", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert all(name != "style" for name, _ in attrs), "forbidden by the page's own policy"
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_everything_is_there_and_closed(diagnosis: Diagnosis) -> None:
    page = format_page(diagnosis, [b"video"], made_by="made by a test")
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(set(parser.ids)) == len(parser.ids) == len(diagnosis.sequences)
    for text in (
        *("What bounds it", "What it cost", "By class", "By sequence", "Worst switches"),
        *("Where the score was lost: bdd100k / val", "made by a test", *CAUSES),
        *("1 of 2, by the boxes", "1 more are in the list", "data:video/mp4;base64,dmlkZW8="),
        *("track 10 until frame 2, track 11 from 3 on", "val-0-2.jpg"),
    ):
        assert text in page, text


def test_numbers_that_do_not_exist_are_dashes(diagnosis: Diagnosis) -> None:
    """Classes without true boxes have no MOTA: infinite or not a number, never printed."""
    page = format_page(diagnosis, [], made_by="")
    assert re.search(r"\b(nan|inf)\b", page) is None
    assert 'data-value="">–</td>' in page


def test_without_a_switch_there_is_nothing_to_show(diagnosis: Diagnosis) -> None:
    sequences = {
        name: replace(found, errors=tuple(e for e in found.errors if e.cause != "switched"))
        for name, found in diagnosis.sequences.items()
    }
    page = format_page(replace(diagnosis, sequences=sequences), [], made_by="")
    assert "No identity was switched." in page


def test_long_lists_are_cut_and_say_so(diagnosis: Diagnosis) -> None:
    found = diagnosis.sequences["val-0"]
    many = replace(found, errors=found.errors[:1] * (ERRORS_A_SEQUENCE + 7))
    page = format_page(
        replace(diagnosis, sequences={**diagnosis.sequences, "val-0": many}), [], made_by=""
    )
    assert "7 smaller ones are not listed." in page


def test_names_cannot_break_out(diagnosis: Diagnosis) -> None:
    found = diagnosis.sequences["val-0"]
    hostile = replace(
        found,
        frame_names=(HOSTILE,) * 7,
        identity_names=dict.fromkeys(found.identity_names, HOSTILE),
    )
    report = replace(diagnosis.report, sequences={HOSTILE: diagnosis.report.sequences["val-0"]})
    page = format_page(
        replace(
            diagnosis,
            title=HOSTILE,
            inputs={HOSTILE: HOSTILE},
            sequences={HOSTILE: hostile},
            report=report,
            result=replace(diagnosis.result, name=HOSTILE),
            true_boxes=Bound(name=HOSTILE, tells=HOSTILE, metrics=None),
        ),
        [b"clip"],
        made_by=HOSTILE,
    )
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert HOSTILE.replace("&", "") not in page
    _Balance().feed(page)


def test_every_cause_is_explained(diagnosis: Diagnosis) -> None:
    page = format_page(diagnosis, [], made_by="")
    meanings = [in_words(meaning, diagnosis.protocol) for meaning in MEANING.values()]
    assert all(meaning.split(",")[0] in page for meaning in meanings)
