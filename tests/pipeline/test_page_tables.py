"""Tables of pages: text is escaped wherever it enters, and what has no value sorts last."""

import math

import pytest

from pipeline import page_tables as tables

HOSTILE = "\"'><script>alert(1)</script>"


@pytest.mark.parametrize(
    "html",
    [
        tables.definitions([(HOSTILE, HOSTILE)]),
        tables.plain_table([HOSTILE, HOSTILE], [tables.line(HOSTILE, [])], HOSTILE),
        tables.number_table({HOSTILE: {HOSTILE: 1.0}}, HOSTILE),
        tables.board([tables.column(HOSTILE, "ascending")], [], HOSTILE),
        tables.name_cell("name", HOSTILE, badge=HOSTILE),
        tables.value_cell("value", HOSTILE),
    ],
    ids=["definitions", "plain table", "numbers", "board", "name", "value"],
)
def test_text_stays_text(html: str) -> None:
    assert "<script" not in html
    assert '""' not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("value", "sorted_by"),
    [(None, ""), (math.nan, ""), (-math.inf, ""), (0, "0"), (-1.5, "-1.5"), ("true", "true")],
)
def test_what_has_no_value_sorts_last(value: float | str | None, sorted_by: str) -> None:
    assert tables.value_cell("–", value) == f'<td data-value="{sorted_by}">–</td>'


def test_a_row_opens_to_its_detail_over_all_columns() -> None:
    cells = [tables.name_cell("a", "a", opens="row-0"), tables.value_cell("1", 1)]
    closed = tables.entry(cells)
    assert "detail" not in closed
    opening = tables.entry(cells, identifier="row-0", detail="<p>more</p>", kind="bound")
    assert opening.startswith('<tbody class="entry bound"><tr><th scope="row"')
    assert 'aria-controls="row-0"' in opening
    assert '<tr class="detail" id="row-0" hidden><td colspan="2">' in opening
    assert "<p>more</p>" in opening
