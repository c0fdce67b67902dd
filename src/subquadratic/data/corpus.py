"""Corpora of bytes: the Python standard library of the machine, a text file, or a folder of text files.

A corpus is two arrays of tokens, training and validation, and a digest that says which text it is: runs are comparable
only when their digests agree. The standard library is there wherever Python is, so it needs no download; its digest
differs between versions and distributions of Python.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .tokenizer import ByteTokenizer

STDLIB = "stdlib"
VALIDATION_PERCENT = 10

# Test suites are packaged apart by some distributions, so they would make the corpus differ between machines; `encodings`
# and `pydoc_data` are near-duplicate tables and one generated file: they would make validation look better than it is.
_STDLIB_SKIP_ANYWHERE = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
_STDLIB_SKIP_TOP = {"encodings", "pydoc_data"}

Document = tuple[str, bytes]  # its path below the root, with forward slashes, and its content


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokens to train on and to validate on.

    `split` says in words how the two were told apart; `documents` counts the files of each (a text split by position
    counts in both); `digest` is a SHA-256 over the split, the names and the content of every document.
    """

    name: str
    train: NDArray[np.uint16]
    validation: NDArray[np.uint16]
    digest: str
    split: str
    documents: tuple[int, int]

    def describe(self) -> str:
        """One line for people."""
        files = f"{self.documents[0]:,} + {self.documents[1]:,} files"
        sizes = f"{len(self.train) / 1e6:.2f} + {len(self.validation) / 1e6:.2f} MB"
        return f"{self.name}: {sizes} to train + validate on, {files}, split {self.split}, digest {self.digest[:12]}"


def load_corpus(data: str | Path | None = None) -> Corpus:
    """The corpus that `data` names: `None` or `"stdlib"`, a text file, or a folder of text files.

    Raises:
        ValueError: the path does not exist, cannot be read, or holds no text; the message names it.
    """
    if data is None or str(data) == STDLIB:
        return stdlib_corpus()
    path = Path(data).expanduser()
    if not path.exists():
        raise ValueError(f"data: no such file or folder: {path}")
    return folder_corpus(path) if path.is_dir() else file_corpus(path)


def stdlib_corpus(root: str | Path | None = None) -> Corpus:
    """The `.py` files of the standard library, split by top-level name; `root` replaces the folder that `sysconfig` gives.

    UTF-8 only, LF line ends, exact duplicates dropped. A package's modules resemble each other, so the first part of the
    path decides the side of all of them.

    Raises:
        ValueError: there are no sources, as in a zipped or embedded Python.
    """
    folder = Path(root or sysconfig.get_paths()["stdlib"])
    documents = list(_distinct(_stdlib_documents(folder)))
    sides = [_by_hash(name.split("/")[0]) for name, _ in documents]
    if not any(sides) or all(sides):
        raise ValueError(
            f"data: the Python standard library at {folder} has no .py sources to train on "
            "(a zipped or embedded Python?); give a text file or a folder with --data"
        )
    version = ".".join(map(str, sys.version_info[:3]))
    return _split_documents(f"standard library of Python {version}", documents, sides, "by top-level name")


def file_corpus(path: Path) -> Corpus:
    """One text file; its last tenth is the validation side."""
    document = (path.name, _read(path))
    if not document[1].strip():
        raise ValueError(f"data: {path} is empty")
    return _split_by_position(str(path), [document])


def folder_corpus(path: Path) -> Corpus:
    """Every text file below a folder, in order of its path, without hidden files, binary files and exact duplicates.

    A hash of each file's path decides its side. Where that leaves either side with too little, as with a handful of files
    or one that is most of the text, the last tenth of all the text is the validation side instead.
    """
    documents = list(_distinct(_folder_documents(path)))
    if not documents:
        raise ValueError(f"data: no text files in {path} (hidden and binary files do not count)")
    sides = [_by_hash(name) for name, _ in documents]
    held_out = sum(len(text) for (_, text), side in zip(documents, sides, strict=True) if side)
    share = held_out / sum(len(text) for _, text in documents)
    if not 0.02 <= share <= 0.3:
        return _split_by_position(str(path), documents)
    return _split_documents(str(path), documents, sides, "by document")


def _split_documents(name: str, documents: list[Document], sides: list[bool], split: str) -> Corpus:
    """`sides` is true for the validation documents."""
    train = [document for document, held_out in zip(documents, sides, strict=True) if not held_out]
    validation = [document for document, held_out in zip(documents, sides, strict=True) if held_out]
    join = ByteTokenizer().join
    return Corpus(
        name=name,
        train=join(text for _, text in train),
        validation=join(text for _, text in validation),
        digest=_digest({"train": train, "validation": validation}),
        split=split,
        documents=(len(train), len(validation)),
    )


def _split_by_position(name: str, documents: list[Document]) -> Corpus:
    tokens = ByteTokenizer().join(text for _, text in documents)
    cut = len(tokens) - len(tokens) * VALIDATION_PERCENT // 100
    return Corpus(
        name=name,
        train=tokens[:cut],
        validation=tokens[cut:],
        digest=_digest({f"last {VALIDATION_PERCENT} %": documents}),
        split=f"by position, the last {VALIDATION_PERCENT} % to validate on",
        documents=(len(documents), len(documents)),
    )


def _stdlib_documents(root: Path) -> Iterator[Document]:
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        if _STDLIB_SKIP_ANYWHERE.isdisjoint(parts) and parts[0] not in _STDLIB_SKIP_TOP:
            text = _read(path)
            if _is_utf8(text):
                yield "/".join(parts), text


def _folder_documents(root: Path) -> Iterator[Document]:
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            text = _read(path)
            if b"\0" not in text:
                yield "/".join(parts), text


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        raise ValueError(f"data: cannot read {path}: {error.strerror or error}") from error


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _distinct(documents: Iterator[Document]) -> Iterator[Document]:
    """The documents that are not blank and whose content did not come before."""
    seen: set[bytes] = set()
    for name, text in documents:
        content = hashlib.sha256(text).digest()
        if text.strip() and content not in seen:
            seen.add(content)
            yield name, text


def _by_hash(name: str) -> bool:
    """Whether `name` belongs to validation: the same on every machine, and about one name in ten."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100 < VALIDATION_PERCENT


def _digest(sides: dict[str, list[Document]]) -> str:
    digest = hashlib.sha256()
    for side, documents in sorted(sides.items()):
        for name, text in documents:
            digest.update(f"{side}\0{name}\0{len(text)}\0".encode())
            digest.update(text)
    return digest.hexdigest()
