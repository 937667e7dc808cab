"""Every trap of docs/traps*.md is held by tests that exist."""

import re
from pathlib import Path

import pytest


@pytest.mark.parametrize(("page", "count"), [("traps.md", 35), ("traps_pointtrack.md", 22)])
def test_every_trap_names_tests_that_exist(repository: Path, page: str, count: int) -> None:
    text = (repository / "docs" / page).read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, count + 1))
    for number, _, pins in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", pins)
        assert named or pins.startswith("does not apply: "), number
        for file, test in named:
            content = (repository / "tests" / file).read_text()
            assert re.search(rf"^ *def {test}\(", content, re.MULTILINE), f"{number}: {test}"
