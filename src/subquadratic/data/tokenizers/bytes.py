"""What a tokenizer is to the rest of the package, and the byte tokenizer.

The byte tokenizer's token is the byte's value; four ids above the bytes are special:

| id      | token                                              |
|---------|----------------------------------------------------|
| 0 … 255 | the byte of that value                             |
| 256     | padding                                            |
| 257     | beginning of a sequence                            |
| 258     | end of a document; corpora put it between documents |
| 259     | a masked position                                  |

Nothing in a text can collide with a special token, so there is nothing to escape, and every text comes back as it went
in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

BYTES = "bytes"
TOKENIZER_FILE = "tokenizer.json"
VALUES_FILE = "values.json"  # in its place, for a model of integers or numbers


class Tokenizer(Protocol):
    """Text to tokens and back.

    `digest` is a SHA-256 that says which tokenizer it is: equal digests give equal tokens. `vocab_size` includes the
    four special tokens, which every tokenizer has; no text is ever encoded to one of them.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_token(self) -> int: ...
    @property
    def bos_token(self) -> int: ...
    @property
    def eos_token(self) -> int: ...
    @property
    def mask_token(self) -> int: ...

    def encode(self, text: str | bytes) -> NDArray[Any]:
        """The tokens of `text`, as uint16 or uint32."""
        ...

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`, special tokens left out; bytes that are not UTF-8 become U+FFFD."""
        ...

    def decode_bytes(self, tokens: ArrayLike) -> bytes:
        """The bytes of `tokens`, special tokens left out: those of a list of tokens are those of its parts, joined."""
        ...

    def byte_lengths(self) -> NDArray[np.int64]:
        """(V,) how many bytes of text each token stands for, 0 for the special ones."""
        ...

    def save(self, folder: Path) -> None:
        """Write into `folder` what `load_tokenizer(folder)` needs; nothing for bytes."""
        ...


class ByteTokenizer:
    """Text to UTF-8 bytes and back.

    `encode` returns a `uint16` array, the smallest type that holds the special tokens.
    """

    name = BYTES
    pad_token = 256
    bos_token = 257
    eos_token = 258
    mask_token = 259
    vocab_size = 260
    digest = hashlib.sha256(json.dumps([BYTES, pad_token, bos_token, eos_token, mask_token]).encode()).hexdigest()

    def encode(self, text: str | bytes) -> NDArray[np.uint16]:
        """The tokens of `text`; a lone surrogate in it, which UTF-8 cannot write, becomes `?`."""
        data = text.encode("utf-8", errors="replace") if isinstance(text, str) else text
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def decode_bytes(self, tokens: ArrayLike) -> bytes:
        """The bytes of `tokens`, special tokens left out.

        Raises:
            ValueError: a token below 0 or not below `vocab_size`.
        """
        ids = check_tokens(tokens, self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes()

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD, special tokens are left out."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def byte_lengths(self) -> NDArray[np.int64]:
        """(260,): 1 for each byte, 0 for the special tokens."""
        lengths = np.ones(self.vocab_size, dtype=np.int64)
        lengths[256:] = 0
        return lengths

    def save(self, folder: Path) -> None:
        """Nothing: a model folder without a tokenizer.json reads bytes."""

    def join(self, documents: Iterable[bytes]) -> NDArray[np.uint16]:
        """One array of all `documents`, each but the last followed by the end-of-document token."""
        end = np.array([self.eos_token], dtype=np.uint16)
        parts = [part for document in documents for part in (self.encode(document), end)]
        return np.concatenate(parts[:-1]) if parts else np.empty(0, dtype=np.uint16)


def check_tokens(tokens: ArrayLike, vocab_size: int) -> NDArray[Any]:
    """`tokens` as a flat array of integers in 0..vocab_size - 1.

    Raises:
        ValueError: one is not.
    """
    ids = np.asarray(tokens).reshape(-1)
    if ids.size == 0:
        return np.empty(0, dtype=np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"tokens must be integers, got {ids.dtype}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"tokens must be in 0..{vocab_size - 1}, got {low}..{high}")
    return ids
