"""The page without a browser: all rows, all text escaped, nothing loaded from anywhere."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.leaderboard import ResultRow, rank, summary_numbers
from pipeline.leaderboard_formats import PROVENANCE
from pipeline.leaderboard_page import format_html

HOSTILE = "\"'><script>alert(1)</script><img src=http://evil/x onerror=alert(2)>&lt;"


class _Page(HTMLParser):
    """Elements with their attributes, and all text outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.raw:
            self.raw[self._inside].append(data)
        else:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and attributes.items() <= found.items()
        ]


@pytest.fixture
def page(full_row: ResultRow, make_row: Callable[..., ResultRow]) -> _Page:
    rows = [
        full_row,
        make_row("overlap only", kind="baseline", metrics={"mMOTA": 10.0, "FP": 12}),
        make_row("true boxes", kind="bound", metrics={"mMOTA": 80.0, "FP": 0}),
        make_row("other", benchmark="synthetic", metrics={}),
    ]
    return _Page(format_html(rank(rows), made_by="Made by a test"))


def test_every_row_has_its_line_and_its_details(page: _Page, full_row: ResultRow) -> None:
    assert [entry["class"] for entry in page.all("tbody") if "class" in entry] == [
        "entry bound",
        "entry model",
        "entry baseline",
        "entry model",
    ]
    details = {entry["id"] for entry in page.all("tr") if "detail" in (entry.get("class") or "")}
    buttons = page.all("button", **{"class": "toggle"})
    assert len(buttons) == 4
    assert {button["aria-controls"] for button in buttons} == details
    assert {button["aria-expanded"] for button in buttons} == {"false"}
    for text in ("QDTrack, all of it", "overlap only", "true boxes", "other", "Made by a test"):
        assert text in page.text


def test_everything_is_stated(page: _Page, full_row: ResultRow) -> None:
    for name in PROVENANCE.values():
        assert getattr(full_row, name) in page.text
    for text in ("synthetic data", "By class", "By sequence (2 sequences)", "b251064f-4696b75e"):
        assert text in page.text
    assert "not stated" in page.text


def test_columns_sort_from_their_better_end(page: _Page) -> None:
    headers = [entry for entry in page.all("th") if "data-first" in entry][:6]
    assert [entry["data-first"] for entry in headers] == [
        *("ascending", "ascending", "descending", "descending", "ascending", "descending"),
    ], "#, tracker, mMOTA, MOTA, FP, MOTP"
    assert headers[0]["aria-sort"] == "ascending"


def test_the_best_are_marked_and_a_bound_is_not_among_them(page: _Page) -> None:
    best = [entry["data-value"] for entry in page.all("td", **{"class": "best"})]
    assert best == ["24.324205123", "12"], "mMOTA of the model, FP of the baseline"


def test_curves_are_drawn_in_the_page(page: _Page) -> None:
    assert len(page.all("svg")) == 3, "HOTA of the board; HOTA and losses of the one row that has"
    assert len(page.all("polyline")) == 1 + 3 + 1
    assert not page.all("img")


def test_nothing_is_loaded_from_anywhere(page: _Page) -> None:
    attributes = [value for _, found in page.elements for value in found.values() if value]
    addresses = [v for v in attributes if re.search(r"(https?:)?//", v)]
    assert addresses == [] or set(addresses) == {"http://www.w3.org/2000/svg"}
    assert not page.all("link", rel="stylesheet")
    assert "@import" not in "".join(page.raw["style"])
    assert "url(" not in "".join(page.raw["style"])


def test_the_policy_allows_exactly_what_is_there(page: _Page) -> None:
    (policy,) = (
        entry["content"] or ""
        for entry in page.all("meta")
        if entry.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        for text in page.raw[kind]:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert not any("style" in found for _, found in page.elements), "the policy would ignore it"


@pytest.mark.parametrize(
    "field",
    ["name", "notes", "recipe", "weights", "detections", "tracker", "hardware", "truth", "split"],
)
def test_text_of_users_stays_text(full_row: ResultRow, field: str) -> None:
    row = ResultRow.from_dict({**full_row.to_dict(), field: HOSTILE})
    page = _Page(format_html(rank([row]), made_by="x"))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert HOSTILE in page.text


def test_names_of_classes_sequences_metrics_and_losses_stay_text(
    make_row: Callable[..., ResultRow],
) -> None:
    table = {HOSTILE: {HOSTILE: 1.0}}
    row = make_row(
        "x",
        metrics={HOSTILE: 1.0},
        per_class=table,
        per_sequence={HOSTILE: table},
        loss_curves={HOSTILE: [(0, 1), (1, 2)]},
        hota_curves={HOSTILE: [1.0] * 19},
    )
    page = _Page(format_html(rank([row]), made_by=HOSTILE))
    assert len(page.all("script")) == 1
    assert not page.all("img")


def test_equal_rows_of_one_name_keep_a_curve_each(full_row: ResultRow) -> None:
    twin = ResultRow.from_dict({**full_row.to_dict(), "fingerprint": "ab"})
    page = _Page(format_html(rank([full_row, twin]), made_by="x"))
    assert len(page.all("polyline")) == 2 + 2 * 4


def test_classes_that_are_never_put_together_stand_side_by_side(full_row: ResultRow) -> None:
    table = {name: {"sMOTSA": 76.2, "IDS": 93} for name in ("car", "pedestrian")}
    row = replace(
        full_row,
        protocol="kitti_mots",
        metrics=summary_numbers(table),
        per_class=table,
        per_sequence={"0002": table},
        hota_curves={f"{name}/HOTA": full_row.hota_curves["HOTA"] for name in table},
    )
    page = _Page(format_html(rank([row]), made_by="x"))
    assert "ranked by car/sMOTSA, then pedestrian/sMOTSA" in page.text
    assert f"{row.name}, pedestrian" in page.text
    assert "Over the localisation threshold, by class" in page.text
    assert len(page.all("button")) == 2 + 4 + 1
    assert {cell["data-first"] for cell in page.all("th") if "data-first" in cell} == {
        *("ascending", "descending"),
    }
    assert page.text.count("pedestrian/IDS") == 2  # a column, and one of the sequences' table


def test_intervals_stand_small_below_their_number(full_row: ResultRow) -> None:
    row = replace(full_row, intervals={"mMOTA": (12.0, 34.567)})
    html = format_html(rank([row]), made_by="")
    assert '<td data-value="24.324205123">24.32<small>[12.00, 34.57]</small></td>' in html
    assert html.count("<small>") == 1
