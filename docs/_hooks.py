"""What MkDocs calls while it builds the site.

Docstrings name classes as :class:`Name`; on the pages of the reference that becomes the name alone, in code type. The drawings of
`benchmarks/results/cpu` are images of the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DRAWINGS = Path(__file__).parent.parent / "benchmarks" / "results" / "cpu"
ROLE = re.compile(r":(?:class|func|meth|mod|attr):<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs calls this with each page's HTML."""
    return ROLE.sub(lambda found: f"<code>{found[1].removeprefix('subquadratic.')}</code>", html)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this with all files of the site."""
    for drawing in sorted(DRAWINGS.glob("*.png")):
        files.append(File.generated(config, f"images/{drawing.name}", abs_src_path=str(drawing)))
    return files
