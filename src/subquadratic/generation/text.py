"""Text in, text out, with any tokenizer.

Axes: B batch, N length.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .stopping import Decoder, EndTokens, StopSearch, Words, end_tokens


def generate_text(
    model: Any,
    tokenizer: Any,
    prompt: str | bytes | Sequence[str | bytes],
    *,
    samples: int = 1,
    stop: Sequence[str | bytes] = (),
    **options: Any,
) -> Any:
    """A causal model's continuation of a text.

    Args:
        model: a :class:`~subquadratic.LanguageModel`, or anything with its ``stream``.
        tokenizer: of :mod:`subquadratic.data`.
        prompt: a text, or several, which go through the model together. The empty text is the beginning of a document.
        samples: number of continuations of each.
        stop: the text ends before the first of these.
        options: as in :func:`~subquadratic.generation.stream`; ``eos_token`` is the tokenizer's, where the model knows it, unless given.

    Returns:
        A text for a single prompt and sample; a list of ``samples`` texts for a single prompt; a list of these for a list of prompts.

    Raises:
        ValueError: for options out of range, or prompts that do not fit the model.
    """
    single = isinstance(prompt, str | bytes)
    texts = [prompt] if isinstance(prompt, str | bytes) else list(prompt)
    if not texts:
        return []
    tokens, mask = left_padded([prompt_tokens(tokenizer, text, model.vocab_size) for text in texts], next(model.parameters()).device)
    options = {"eos_token": known_end(tokenizer, model.vocab_size), "pad_token": tokenizer.pad_token, **options}
    steps = model.stream(tokens, mask=mask, samples=samples, stop=stop, tokenizer=tokenizer, **options)
    rows = torch.stack(list(steps), dim=1).tolist()
    found = []
    for number, tokens_of_row in enumerate(rows):
        row = RowText(tokenizer, stop=stop, eos_token=options["eos_token"], first=not texts[number // samples])
        pieces = [piece for token in tokens_of_row for piece in row.feed(token)] + row.finish()
        found.append(b"".join(piece.data for piece in pieces).decode("utf-8", errors="replace"))
    grouped = [found[start : start + samples] for start in range(0, len(found), samples)]
    chosen = [group[0] if samples == 1 else group for group in grouped]
    return chosen[0] if single else chosen


def known_end(tokenizer: Any, vocab_size: int) -> int | None:
    """The tokenizer's end token; None for a model that does not know it, and so never ends a text."""
    return tokenizer.eos_token if tokenizer.eos_token < vocab_size else None


def prompt_tokens(tokenizer: Any, text: str | bytes, vocab_size: int) -> Tensor:
    """(N,) int64, N at least 1. The beginning of a document, which the empty text is, comes after the end of another: an end token; or a
    line break, for a model that knows no such token.

    Raises:
        ValueError: if the model has a smaller vocabulary than the text needs.
    """
    tokens = torch.from_numpy(tokenizer.encode(text).astype("int64"))
    if not len(tokens):
        end = known_end(tokenizer, vocab_size)
        tokens = torch.from_numpy(tokenizer.encode("\n").astype("int64")) if end is None else torch.tensor([end])
    worst = int(tokens.max())
    if worst >= vocab_size:
        spelled = tokenizer.decode_bytes([worst]).decode("utf-8", errors="backslashreplace")
        raise ValueError(
            f"the text has the token {worst} ({spelled!r}), but the model knows {vocab_size} tokens (0 to {vocab_size - 1}): "
            f"it was not trained on text of the tokenizer {tokenizer.name}"
        )
    return tokens


def left_padded(rows: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Rows of different lengths as tokens (B, N), padded with 0 on the left, and their mask; None where none is padded."""
    length = max(map(len, rows))
    tokens = torch.stack([torch.nn.functional.pad(row, (length - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(length) >= length - lengths[:, None]
    return tokens.to(device), None if bool(mask.all()) else mask.to(device)


class Piece(NamedTuple):
    """A new token."""

    token: int
    data: bytes  # its text: parts of a character too; cut where a stop text begins
    log_prob: float


class RowText:
    """The text of one row as its tokens come in; never a part of a stop text.

    Args:
        tokenizer: of :mod:`subquadratic.data`.
        stop: texts that end it.
        eos_token: the token that ends it, or several; it is a piece without text.
        first: there is no text before, and so no space that a tokenizer puts before every text.
    """

    def __init__(self, tokenizer: Decoder, *, stop: Sequence[str | bytes] = (), eos_token: EndTokens | None = None, first: bool = False):
        self.end: str | None = None
        """What ended it: "eos", "stop", or None."""
        self._words, self._search, self._eos = Words(tokenizer, first=first), StopSearch(stop), end_tokens(eos_token)
        self._waiting: deque[Piece] = deque()
        self._certain = 0  # bytes of the pieces waiting that belong to no stop text

    def feed(self, token: int, log_prob: float = 0.0) -> list[Piece]:
        """The next token; the pieces that are now certain. Nothing counts once the row has ended."""
        if self.end is not None:
            return []
        if token in self._eos:
            self.end = "eos"
            self._waiting.append(Piece(token, b"", log_prob))
            return self.finish()
        data = self._words.bytes_of(token)
        self._waiting.append(Piece(token, data, log_prob))
        self._certain += len(self._search.feed(data))
        out = []
        while self._waiting and len(self._waiting[0].data) <= self._certain:
            out.append(self._waiting.popleft())
            self._certain -= len(out[-1].data)
        if self._search.found:
            self.end = "stop"
            if self._certain:
                piece = self._waiting.popleft()
                out.append(piece._replace(data=piece.data[: self._certain]))
            self._waiting.clear()
        return out

    def finish(self) -> list[Piece]:
        """What was held back, when no more tokens come."""
        out = list(self._waiting)
        self._waiting.clear()
        return out
