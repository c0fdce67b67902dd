"""What MkDocs calls while it builds the site.

Docstrings name classes as :class:`Name`; on the pages of the reference that becomes the name alone, in code type. Plots are linked where
the repository has them, so that a page can be read there too; the site has copies of them in `images/`.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PLOTS = Path(__file__).parent.parent / "benchmarks" / "results"
LINK = re.compile(r"\]\((?:\.\./)+benchmarks/results/([\w./-]+\.png)\)")
ROLE = re.compile(r":(?:class|func|meth|mod|attr):<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs calls this with each page's HTML."""
    return ROLE.sub(lambda found: f"<code>{found[1].removeprefix('subquadratic.')}</code>", html)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs calls this with each page's source."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(rf"]({up}images/\1)", markdown)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this with all files of the site."""
    for plot in sorted(PLOTS.glob("*/*.png")):
        files.append(File.generated(config, f"images/{plot.relative_to(PLOTS).as_posix()}", abs_src_path=str(plot)))
    return files
