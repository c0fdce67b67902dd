"""Docstrings name classes as :class:`Name`; on the pages of the reference that becomes the name alone, in code type."""

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|attr):<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs calls this with each page's HTML."""
    return ROLE.sub(lambda found: f"<code>{found[1].removeprefix('subquadratic.')}</code>", html)
