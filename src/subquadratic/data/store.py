"""The token store: tokens of a large corpus on disk, mapped into memory, made once and used again.

A store is three files in the cache folder, `$SUBQ_CACHE`, else `$XDG_CACHE_HOME/subquadratic`, else
`~/.cache/subquadratic`. They may be deleted at any time.

| file          | content                                                                                        |
|---------------|------------------------------------------------------------------------------------------------|
| `NAME.bin`    | tokens, uint16 or uint32, little-endian: the training side, then the validation side             |
| `NAME.npy`    | where documents begin, int64, counted from the beginning of their side: training, then validation |
| `NAME.json`   | dtype, counts, bytes of text, split, digest of tokens and tokenizer, fingerprint of the source; written last |

A store is used again when the names, sizes and times of the source's files, the way they are read, the tokenizer and the
sizes of the store's own files agree. That costs a look at the folder and not a byte of the text; so a file changed with its
time set back, or a bit flipped on disk, is not noticed. Anything else that does not fit is built anew. Files get their
names when they are whole, and one process builds while others wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from .reading import expand_user
from .source import Source
from .tokenizers.bytes import Tokenizer
from .tokenizing import Layout, Progress, write_tokens

FORMAT = 4
CACHE_VARIABLE = "SUBQ_CACHE"


def cache_folder() -> Path:
    """Where stores are kept."""
    if os.environ.get(CACHE_VARIABLE):
        return expand_user(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else expand_user("~/.cache")) / "subquadratic"


def tokens_in_memory(source: Source, tokenizer: Tokenizer, progress: Progress | None = None) -> tuple[NDArray[Any], Layout]:
    """All tokens of `source`, and what is where."""
    file, layout = write_tokens(source, tokenizer, io.BytesIO, progress)
    assert isinstance(file, io.BytesIO)
    return np.frombuffer(file.getbuffer(), dtype=layout.dtype), layout


def stored_tokens(source: Source, tokenizer: Tokenizer, cache: Path, progress: Progress | None = None) -> tuple[Path, Layout]:
    """The file of tokens of `source`, and what is where; from the cache if it is there, else built.

    Raises:
        ValueError: text that cannot be read, or a cache folder that cannot be written or is full; the message says what
            to set.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fingerprint = source.fingerprint()
        if fingerprint is None:
            return _build(source, tokenizer, cache, None, None, progress)
        stem = _stem(source.name, [fingerprint, tokenizer.digest, FORMAT])
        found = _open(cache / f"{stem}.bin", fingerprint)
        if found is None:
            with _locked(cache / f".{stem}.lock"):
                found = _open(cache / f"{stem}.bin", fingerprint) or _build(source, tokenizer, cache, stem, fingerprint, progress)
        return found
    except OSError as error:  # of the cache: those of the source are ValueErrors by now
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left there" if full else error.strerror or str(error)
        raise ValueError(
            f"cache: cannot write the tokens of {source.name} to {cache}: {reason}; nothing is left behind; "
            f"set {CACHE_VARIABLE} to a folder {'with more space' if full else 'that can be written'}"
        ) from error


def map_tokens(path: Path, layout: Layout) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both sides as memory maps."""
    offset = layout.train_tokens * np.dtype(layout.dtype).itemsize
    return _map(path, layout.dtype, 0, layout.train_tokens), _map(path, layout.dtype, offset, layout.validation_tokens)


def _map(path: Path, dtype: str, offset: int, count: int) -> NDArray[Any]:
    if count == 0:
        return np.empty(0, dtype=dtype)  # there is no map of nothing
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))


def _open(path: Path, fingerprint: str) -> tuple[Path, Layout] | None:
    """The store at `path`; None where there is none that is whole and of this source."""
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT or content.pop("source") != fingerprint:
            return None
        content.pop("tokenizer")
        starts = np.load(path.with_suffix(".npy"), allow_pickle=False)
        cut, others = content.pop("train_starts"), content.pop("validation_starts")
        halves = {"train_starts": starts[:cut], "validation_starts": starts[cut:]}
        layout = Layout(**{**content, "documents": tuple(content["documents"])}, **halves)
        tokens = layout.train_tokens + layout.validation_tokens
        whole = path.stat().st_size == tokens * np.dtype(layout.dtype).itemsize and len(starts) == cut + others
        return (path, layout) if whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError):
        return None


def _build(
    source: Source, tokenizer: Tokenizer, cache: Path, stem: str | None, fingerprint: str | None, progress: Progress | None
) -> tuple[Path, Layout]:
    """Write a store; `stem` is None for a stream, which is named by its content."""
    prefix = f".{stem or 'stream'}."
    if stem is not None:
        for leftover in cache.glob(f"{prefix}*.part"):  # of a process that was killed: nobody else holds the lock
            leftover.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:

        def new_file() -> BinaryIO:
            file = tempfile.NamedTemporaryFile(dir=cache, prefix=prefix, suffix=".part", delete=False)  # noqa: SIM115
            stack.callback(Path(file.name).unlink, missing_ok=True)
            stack.callback(file.close)
            return file  # type: ignore[return-value]

        file, layout = write_tokens(source, tokenizer, new_file, progress)
        if source.fingerprint() != fingerprint:
            raise ValueError(f"data: {source.name} changed while it was read; start again when nothing writes to it")
        stem = stem or _stem(source.name, [layout.digest])
        path = cache / f"{stem}.bin"
        _publish(file, path)
        starts = new_file()
        np.save(starts, np.concatenate([layout.train_starts, layout.validation_starts]))
        _publish(starts, path.with_suffix(".npy"))
        sidecar = new_file()
        sidecar.write(json.dumps(_sidecar(layout, tokenizer, fingerprint), indent=2).encode() + b"\n")
        _publish(sidecar, path.with_suffix(".json"))
    return path, layout


def _sidecar(layout: Layout, tokenizer: Tokenizer, fingerprint: str | None) -> dict[str, Any]:
    content = {field.name: getattr(layout, field.name) for field in dataclasses.fields(layout)}
    content["train_starts"], content["validation_starts"] = len(layout.train_starts), len(layout.validation_starts)
    return {"format": FORMAT, **content, "tokenizer": tokenizer.digest, "source": fingerprint}


def _publish(file: Any, path: Path) -> None:
    """Give a whole file its name."""
    file.flush()
    os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    Path(file.name).chmod(0o666 & ~umask)
    Path(file.name).replace(path)


def _stem(name: str, key: list[Any]) -> str:
    """A file name that people recognise and that `key` decides."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.")[:40] or "corpus"
    return f"{readable}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time, where the system has such locks; a crash ends the lock."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another process that is tokenising the same text", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            if not _is_at(file, path):
                continue  # whoever had the lock is done, and took the file away
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
