"""English to train on where no text is given: docstrings and project descriptions of the Python packages installed here.

They are about everything that packages are for, and every machine has some. Documents are packages, so that what is held out shares no
package with what is trained on.
"""

from __future__ import annotations

import re
import sysconfig
import zlib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

DOCSTRING = re.compile(r'"""(.{80,8000}?)"""', re.DOTALL)
LARGEST = 400_000  # bytes of a source file, and of a description
PACKAGE = 1 << 21  # bytes of prose from one package at most, so that no large one drowns the others
HELD_OUT = 10  # of so many packages one is not trained on
LETTERS = 0.93  # of a paragraph's characters are letters, spaces or marks of a sentence, at least, or it is no prose
CODE = re.compile(r"[=_{}\[\]\\<>|`#@/]|\(\)|\bself\b|\bimport\b|::|: *$|\.\.|\w\.[a-z]")
FEWEST, LONGEST = 40, 2000  # characters of a paragraph


def installed_prose() -> tuple[list[str], list[str]]:
    """Paragraphs to train on, and paragraphs of other packages: both in the same order on one machine."""
    train: list[str] = []
    held: list[str] = []
    seen: set[int] = set()
    for name, texts in _packages():
        side = held if zlib.crc32(name.encode()) % HELD_OUT == 0 else train
        size = 0
        for paragraph in (paragraph for text in texts for paragraph in paragraphs(text)):
            size += len(paragraph)
            if size > PACKAGE:
                break
            if (key := hash(paragraph)) not in seen:
                seen.add(key)
                side.append(paragraph)
    return train, held


def paragraphs(text: str) -> Iterator[str]:
    """Those of a text that are sentences, each in one line."""
    for block in re.split(r"\n\s*\n", text):
        line = " ".join(block.split())
        if FEWEST <= len(line) <= LONGEST and _is_prose(line):
            yield line


def _is_prose(line: str) -> bool:
    plain = sum(letter.isalpha() or letter in " ,.'-" for letter in line)
    return plain >= LETTERS * len(line) and line.count(" ") >= 6 and CODE.search(line) is None


def _packages() -> Iterator[tuple[str, Iterator[str]]]:
    """(name, texts) of the standard library's modules and packages, and of what is installed beside it."""
    places = {"stdlib": sysconfig.get_path("stdlib"), "installed": sysconfig.get_path("purelib")}
    for place in places.values():
        folder = Path(place)
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        for entry in entries:
            if entry.name in ("site-packages", "dist-packages", "__pycache__", "test", "tests") or entry.name.startswith((".", "_")):
                continue
            if entry.is_dir() or entry.suffix == ".py":
                yield entry.name.removesuffix(".py"), _docstrings(entry)
    for found in sorted(distributions(), key=lambda one: str(one.metadata["Name"])):
        name = str(found.metadata["Name"] or "")
        yield name.lower().replace("-", "_"), iter([_description(found.read_text("METADATA") or "")])


def _docstrings(entry: Path) -> Iterator[str]:
    for file in [entry] if entry.is_file() else sorted(entry.rglob("*.py")):
        try:
            text = file.read_text(encoding="utf-8") if file.stat().st_size <= LARGEST else ""
        except (OSError, UnicodeDecodeError):
            continue
        yield from DOCSTRING.findall(text)


def _description(metadata: str) -> str:
    """The project's page, without the headers before it and what is marked as code."""
    body = metadata[:LARGEST].partition("\n\n")[2]
    return re.sub(r"```.*?```", "\n\n", body, flags=re.DOTALL)
