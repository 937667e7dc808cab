"""What all HTML pages share: one self-contained document, its style and script, and figures.

Every text may come from a user (names, notes, sequences), so everything is escaped where it enters
a page, and a page forbids by policy whatever is not its own style and script or written into it.
"""

import base64
import hashlib
from html import escape
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).resolve().parent
_OPEN_WITHOUT_SCRIPT: Final = ".detail[hidden]{display:table-row}"


def document(title: str, body: str, *, made_by: str) -> str:
    """A whole HTML document: nothing is loaded from anywhere.

    Columns of a table of class `board` sort by their buttons; its rows open by theirs. Without
    scripts the rows are all open.

    Args:
        title: heading and title of the page, plain text.
        body: HTML below the heading; the caller has escaped every text in it.
        made_by: what made the page and when, plain text shown below the heading.
    """
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; script-src {_digest(script)}; "
        f"style-src {_digest(style)} {_digest(_OPEN_WITHOUT_SCRIPT)}"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<noscript><style>{_OPEN_WITHOUT_SCRIPT}</style></noscript>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="muted">{escape(made_by)}</p>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def figure(chart: str, caption: str) -> str:
    """A chart (HTML) with its caption (plain text)."""
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def _digest(text: str) -> str:
    """How a content security policy names an element by its content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
