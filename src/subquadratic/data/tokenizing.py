"""From documents to two sides of tokens, as a stream: what is in memory at a time does not grow with the text.

Documents follow each other with the end-of-document token between them. A hash of a document's key decides its side.
Where that leaves either side with too little, as with a handful of files or one that is most of the text, and for a single
text, the last tenth of all the tokens is the validation side instead. Of a source that is `whole` there is one side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .documents import Document, read_documents
from .passed_over import PassedOver
from .source import Source
from .tokenizers.bytes import BYTES, Tokenizer
from .tokenizers.values import ValueTokenizer, reads_values
from .value_files import ValuePiece, read_values

VALIDATION_PERCENT = 10
BATCH_BYTES = 1 << 21  # of text, encoded at once
COPY_BYTES = 1 << 22
WHOLE = "as given"  # the split where other data are validated on

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file of tokens holds: the training side first, then the validation side.

    `train_starts` and `validation_starts` say where documents begin, counted from the beginning of their side; `passed_over` is that of
    `PassedOver.to_dict`.
    """

    dtype: str
    train_tokens: int
    validation_tokens: int
    train_bytes: int
    validation_bytes: int
    documents: tuple[int, int]
    split: str
    digest: str
    train_starts: NDArray[np.int64]
    validation_starts: NDArray[np.int64]
    passed_over: dict[str, Any]


def by_hash(key: str) -> bool:
    """Whether `key` belongs to validation: the same on every machine, and about one key in ten."""
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:4], "big") % 100 < VALIDATION_PERCENT


def token_dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    """Of the tokens on disk and in memory: little-endian, as small as the vocabulary allows."""
    if isinstance(tokenizer, ValueTokenizer) and tokenizer.dtype is not None:
        return np.dtype(tokenizer.dtype)
    return np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")


def write_tokens(
    source: Source, tokenizer: Tokenizer, new_file: Callable[[], BinaryIO], progress: Progress | None = None
) -> tuple[BinaryIO, Layout]:
    """The file of tokens of `source`, and what is where in it. `new_file` gives empty files to write and read.

    Raises:
        ValueError: text that cannot be read, or none at all.
    """
    sides = _Sides(tokenizer, new_file(), new_file())
    passed = source.passed()
    for document, tokens in _encoded(source, tokenizer, counter(source, progress), passed):
        held_out = not (source.single or source.whole) and by_hash(document.key)
        sides.add(document, tokens, held_out)
    if not sides.order:
        nothing = f"holds no {'values' if reads_values(tokenizer) else 'text'}{passed.because()}"
        raise ValueError(f"data: {source.name} {'is empty' if source.single else nothing}")
    if source.stdlib and not (source.whole or all(sides.texts)):
        raise ValueError(f"data: too few .py sources in the {source.name} to train on (a zipped or embedded Python?)")
    share = sides.texts[1] / max(sum(sides.texts), 1)
    if source.whole:
        starts = [np.array(side, dtype=np.int64) for side in sides.starts]
        file, layout = sides.files[0], _layout(tokenizer, sides.files[0], WHOLE, sides.counts, sides.texts, (len(starts[0]), 0), starts)
    elif not source.single and (source.stdlib or 0.02 <= share <= 0.3):
        file, layout = _by_document(source, tokenizer, sides)
    else:
        file, layout = _by_position(tokenizer, sides, sides.files[0] if source.single else sides.in_order(new_file()))
    return file, dataclasses.replace(layout, passed_over=passed.to_dict())


class _Sides:
    """Two growing files of tokens, and which document is where."""

    def __init__(self, tokenizer: Tokenizer, train: BinaryIO, validation: BinaryIO) -> None:
        self.dtype = token_dtype(tokenizer)
        self.end = np.array([tokenizer.eos_token], dtype=self.dtype).tobytes()
        self.files = (train, validation)
        self.counts = [0, 0]  # tokens
        self.texts = [0, 0]  # bytes of text, or values
        self.starts = (array("q"), array("q"))
        self.order = bytearray()  # the side of each document
        self.inside = False  # a document whose pieces are not all here

    def add(self, document: Document | ValuePiece, tokens: NDArray[Any], held_out: bool) -> None:
        file = self.files[held_out]
        if not self.inside:
            if self.starts[held_out]:
                file.write(self.end)
                self.counts[held_out] += 1
            self.starts[held_out].append(self.counts[held_out])
            self.order.append(held_out)
        file.write(tokens.astype(self.dtype, copy=False).tobytes())
        self.counts[held_out] += len(tokens)
        self.texts[held_out] += document.size
        self.inside = not document.last

    def in_order(self, file: BinaryIO) -> BinaryIO:
        """Both sides in one, as the documents came; counts and starts become those of the whole."""
        ends = [[*starts[1:], count + 1] for starts, count in zip(self.starts, self.counts, strict=True)]
        walks = [iter(zip(starts, end, strict=True)) for starts, end in zip(self.starts, ends, strict=True)]
        starts, count = array("q"), 0
        for side in self.order:
            start, end = next(walks[side])
            if count:
                file.write(self.end)
                count += 1
            starts.append(count)
            self.files[side].seek(start * self.dtype.itemsize)
            _copy(self.files[side], file, (end - 1 - start) * self.dtype.itemsize)
            count += end - 1 - start
        self.starts, self.counts, self.texts = (starts, array("q")), [count, 0], [sum(self.texts), 0]
        return file


def _by_document(source: Source, tokenizer: Tokenizer, sides: _Sides) -> tuple[BinaryIO, Layout]:
    train, validation = sides.files
    validation.seek(0)
    _copy(validation, train, sides.counts[1] * sides.dtype.itemsize)
    starts = [np.array(side, dtype=np.int64) for side in sides.starts]
    how = "by top-level name" if source.stdlib else "by row" if source.all_rows else "by document"
    documents = (len(starts[0]), len(starts[1]))
    return train, _layout(tokenizer, train, how, sides.counts, sides.texts, documents, starts)


def _by_position(tokenizer: Tokenizer, sides: _Sides, file: BinaryIO) -> tuple[BinaryIO, Layout]:
    count = sides.counts[0]
    held_out = count * VALIDATION_PERCENT // 100
    cut = count - held_out
    lengths = tokenizer.byte_lengths()
    counted = [0, 0]  # bytes that the tokens of each side stand for
    file.seek(0)
    position = 0
    while not reads_values(tokenizer) and (block := file.read(COPY_BYTES)):
        tokens = np.frombuffer(block, dtype=sides.dtype)
        inside = min(max(cut - position, 0), len(tokens))
        counted[0] += int(lengths[tokens[:inside]].sum())
        counted[1] += int(lengths[tokens[inside:]].sum())
        position += len(tokens)
    text = sides.texts[0]
    # The same for tokenizers that keep every byte; those that normalise text get the share that their tokens say.
    validation_bytes = round(text * counted[1] / max(1, sum(counted)))
    starts = np.array(sides.starts[0], dtype=np.int64)
    inner = starts[starts > cut] - cut
    halves = [starts[starts < cut], np.concatenate([np.zeros(min(1, held_out), dtype=np.int64), inner])]
    how = f"by position, the last {VALIDATION_PERCENT} % to validate on"
    texts = [text - validation_bytes, validation_bytes]
    return file, _layout(tokenizer, file, how, [cut, held_out], texts, (len(starts), len(starts)), halves)


def _layout(
    tokenizer: Tokenizer, file: BinaryIO, split: str, counts: list[int], texts: list[int], documents: tuple[int, int], starts: list[Any]
) -> Layout:
    if reads_values(tokenizer):
        texts = [0, 0]
    digest = hashlib.sha256(json.dumps([tokenizer.digest, split, counts]).encode())
    file.seek(0)
    while block := file.read(COPY_BYTES):
        digest.update(block)
    return Layout(
        dtype=token_dtype(tokenizer).str,
        train_tokens=counts[0],
        validation_tokens=counts[1],
        train_bytes=texts[0],
        validation_bytes=texts[1],
        documents=documents,
        split=split,
        digest=digest.hexdigest(),
        train_starts=starts[0],
        validation_starts=starts[1],
        passed_over={},
    )


def _encoded(
    source: Source, tokenizer: Tokenizer, progress: Callable[[int], None] | None, passed: PassedOver
) -> Iterator[tuple[Document | ValuePiece, NDArray[Any]]]:
    """Each document or piece with its tokens, encoded many at once where the tokenizer can."""
    if isinstance(tokenizer, ValueTokenizer):
        for piece in read_values(source, passed, progress):
            yield piece, tokenizer.encode_values(piece.values, piece.where, piece.first)
        return
    documents = read_documents(source, utf8=tokenizer.name != BYTES, progress=progress, passed=passed)
    encode_batch = getattr(tokenizer, "encode_batch", None)
    if encode_batch is None:
        yield from ((document, tokenizer.encode(document.text)) for document in documents)
        return
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield from zip(batch, encode_batch([each.text for each in batch]), strict=True)
            batch, size = [], 0
    yield from zip(batch, encode_batch([each.text for each in batch]), strict=True)


def counter(source: Source, progress: Progress | None) -> Callable[[int], None] | None:
    """What `read_documents` tells each read, to tell `progress` how much was read in all, and of how much."""
    if progress is None:
        return None
    total, done = source.size(), 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        progress(done, total)

    return count


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        block = source.read(min(count, COPY_BYTES))
        if not block:
            raise OSError("a temporary file of tokens is shorter than what was written to it")
        target.write(block)
        count -= len(block)
