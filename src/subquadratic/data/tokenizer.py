"""The byte tokenizer: a token's id is the byte's value; four ids above the bytes are special.

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

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ByteTokenizer:
    """Text to UTF-8 bytes and back.

    `encode` returns a `uint16` array, the smallest type that holds the special tokens.
    """

    name = "bytes"
    pad_token = 256
    bos_token = 257
    eos_token = 258
    mask_token = 259
    vocab_size = 260

    def encode(self, text: str | bytes) -> NDArray[np.uint16]:
        """The tokens of `text`; a lone surrogate in it, which UTF-8 cannot write, becomes `?`."""
        data = text.encode("utf-8", errors="replace") if isinstance(text, str) else text
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint16)

    def decode_bytes(self, tokens: ArrayLike) -> bytes:
        """The bytes of `tokens`, special tokens left out.

        Raises:
            ValueError: a token below 0 or not below `vocab_size`.
        """
        ids = np.asarray(tokens).reshape(-1)
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size):
            raise ValueError(f"tokens must be in 0..{self.vocab_size - 1}, got {int(ids.min())}..{int(ids.max())}")
        return ids[ids < 256].astype(np.uint8).tobytes()

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD, special tokens are left out."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def join(self, documents: Iterable[bytes]) -> NDArray[np.uint16]:
        """One array of all `documents`, each but the last followed by the end-of-document token."""
        end = np.array([self.eos_token], dtype=np.uint16)
        parts = [part for document in documents for part in (self.encode(document), end)]
        return np.concatenate(parts[:-1]) if parts else np.empty(0, dtype=np.uint16)
