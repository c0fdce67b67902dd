"""When a row has ended: at the end token, or at a stop text in the text that arrives token by token.

Axes: B rows.
"""

from collections.abc import Iterable, Sequence, Set
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import require
from ..core.scalars import as_number, is_whole

EndTokens = int | Iterable[int] | Tensor
"""One token, or several in a list, tuple, set, array or tensor."""


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


def end_tokens(eos_token: EndTokens | None, vocab_size: int | None = None) -> tuple[int, ...]:
    """The tokens that end a row, as plain integers: in the order given, those of a set by size; none for None.

    Args:
        eos_token: an integer (NumPy's and PyTorch's too), or several in a list, tuple, set, array or tensor.
        vocab_size: V, where it is known.

    Raises:
        ValueError: for anything that can never match: no integer, an empty collection, a token outside [0, V).
    """
    if eos_token is None:
        return ()
    given = eos_token.tolist() if isinstance(eos_token, Tensor) or hasattr(eos_token, "tolist") else eos_token
    if isinstance(given, str | bytes | dict) or not isinstance(given, Iterable):
        given = [given]
    found = [as_number(token) for token in given]
    for token in found:
        require(
            is_whole(token) and token >= 0,
            f"eos_token must be an integer of at least 0, or a list of such, got {eos_token!r}; None: no token ends a row",
        )
    require(len(found) > 0, f"eos_token must name at least one token, got {eos_token!r}; None: no token ends a row")
    ends = tuple(sorted(found)) if isinstance(given, Set) else tuple(found)
    check_ends(ends, vocab_size)
    return ends


def check_ends(ends: Sequence[int], vocab_size: int | None) -> None:
    """Raises ValueError for an end token that the model does not know, so that no row would ever end."""
    for token in ends:
        require(
            vocab_size is None or token < vocab_size,
            f"eos_token must be less than vocab_size={vocab_size}, got {token}, which would never be chosen; None: no token ends a row",
        )


def is_end(chosen: Tensor, ends: Sequence[int]) -> Tensor:
    """Whether each token is one of ``ends``, of which there is one at least: bool of the shape of ``chosen``."""
    found = chosen == ends[0]
    for token in ends[1:]:
        found = found | (chosen == token)
    return found


class Ends:
    """Which of B rows have ended.

    Args:
        rows: B.
        eos_token: what ends a row, as :func:`end_tokens` takes it; None: no token does.
        vocab_size: V, where it is known.
        stop: texts that end a row once its new tokens contain one.
        tokenizer: turns tokens into text, for ``stop``.

    Raises:
        ValueError: for ``stop`` without a tokenizer, or an empty text in it; for an end token that can never match.
    """

    def __init__(
        self,
        rows: int,
        *,
        eos_token: EndTokens | None,
        stop: Sequence[str | bytes],
        tokenizer: Decoder | None,
        vocab_size: int | None = None,
    ):
        require(
            not stop or hasattr(tokenizer, "decode_bytes"),
            f"stop needs tokenizer, one of subquadratic.data (load_tokenizer finds it), to turn tokens into text; got {tokenizer!r}",
        )
        self.tokens = end_tokens(eos_token, vocab_size)
        self.possible = bool(self.tokens) or bool(stop)
        self.finished = torch.zeros(rows, dtype=torch.bool)
        self._words = None if tokenizer is None else Words(tokenizer)
        self._searches = [StopSearch(stop) for _ in range(rows if stop else 0)]

    def add(self, chosen: Tensor) -> None:
        """The next token (B,) of each row; those of rows that have ended do not count."""
        ends = is_end(chosen, self.tokens) if self.tokens else torch.zeros_like(chosen, dtype=torch.bool)
        self.finished = self.finished.to(chosen.device) | ends
        if self._words is None or not self._searches:
            return
        for search, token, over in zip(self._searches, chosen.tolist(), self.finished.tolist(), strict=True):
            if not over:
                search.feed(self._words.bytes_of(token))
        self.finished = self.finished | torch.tensor([search.found for search in self._searches], device=chosen.device)
