"""When a row has ended: at the end token, or at a stop text in the text that arrives token by token.

Axes: B rows.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops.errors import require


class Decoder(Protocol):
    """The part of a tokenizer that generation needs: :class:`subquadratic.data.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...

    def decode(self, tokens: Any) -> str:
        """The text of ``tokens``."""
        ...

    def decode_bytes(self, tokens: Any) -> bytes:
        """The bytes of ``tokens``; of a list of tokens those of its parts, joined."""
        ...


class Words:
    """Token by token to bytes.

    Args:
        tokenizer: of :mod:`subquadratic.data`.
        first: the tokens begin a text: a space that the tokenizer puts there is taken off.
    """

    def __init__(self, tokenizer: Decoder, *, first: bool = False):
        self._tokenizer, self._first = tokenizer, first

    def bytes_of(self, token: int) -> bytes:
        """The bytes of the next token; none for a special one, or one beyond the tokenizer's vocabulary, which some models have."""
        data = self._tokenizer.decode_bytes([token]) if token < self._tokenizer.vocab_size else b""
        if self._first and data:
            self._first = False
            if data.startswith(b" ") and not self._tokenizer.decode([token]).startswith(" "):
                return data[1:]
        return data


class StopSearch:
    """Text goes in by pieces, cut anywhere (inside a character too), and comes out as soon as no stop text can begin in it.

    Args:
        texts: any of them ends the text; none: all text comes out at once.

    Raises:
        ValueError: if a text is empty.
    """

    def __init__(self, texts: Sequence[str | bytes] = ()):
        self.found = False
        self._stops = encode_stops(texts)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The next piece; the text that is now certain. Sets ``found`` when a stop text is complete: what came out before is the text
        up to it, and whatever is fed later is ignored."""
        if self.found:
            return b""
        self._held += data
        # Where two stop texts are complete, the one that begins first counts.
        places = [place for place in map(self._held.find, self._stops) if place >= 0]
        if places:
            self.found = True
            out, self._held = self._held[: min(places)], b""
            return out
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def flush(self) -> bytes:
        """What was held back, when no more text comes."""
        out, self._held = self._held, b""
        return out

    def _overlap(self, stop: bytes) -> int:
        """The length of the longest end of what is held that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)


def encode_stops(texts: Sequence[str | bytes]) -> tuple[bytes, ...]:
    """Stop texts as bytes.

    Raises:
        ValueError: if one is empty, or ``texts`` is a single text.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(f"stop must be a list of texts, got {texts!r}: pass stop=[{texts!r}]")
    stops = tuple(text.encode("utf-8", errors="replace") if isinstance(text, str) else bytes(text) for text in texts)
    if not all(stops):
        raise ValueError(f"stop must be texts of at least one character, got {list(texts)!r}")
    return stops


class Ends:
    """Which of B rows have ended.

    Args:
        rows: B.
        eos_token: ends a row; None: no token does.
        stop: texts that end a row once its new tokens contain one.
        tokenizer: turns tokens into text, for ``stop``.

    Raises:
        ValueError: for ``stop`` without a tokenizer, or an empty text in it.
    """

    def __init__(self, rows: int, *, eos_token: int | None, stop: Sequence[str | bytes], tokenizer: Decoder | None):
        require(
            not stop or hasattr(tokenizer, "decode_bytes"),
            f"stop needs tokenizer, one of subquadratic.data (load_tokenizer finds it), to turn tokens into text; got {tokenizer!r}",
        )
        self.possible = eos_token is not None or bool(stop)
        self.finished = torch.zeros(rows, dtype=torch.bool)
        self._eos, self._words = eos_token, None if tokenizer is None else Words(tokenizer)
        self._searches = [StopSearch(stop) for _ in range(rows if stop else 0)]

    def add(self, chosen: Tensor) -> None:
        """The next token (B,) of each row; those of rows that have ended do not count."""
        ends = torch.zeros_like(chosen, dtype=torch.bool) if self._eos is None else chosen == self._eos
        self.finished = self.finished.to(chosen.device) | ends
        if self._words is None or not self._searches:
            return
        for search, token, over in zip(self._searches, chosen.tolist(), self.finished.tolist(), strict=True):
            if not over:
                search.feed(self._words.bytes_of(token))
        self.finished = self.finished | torch.tensor([search.found for search in self._searches], device=chosen.device)
