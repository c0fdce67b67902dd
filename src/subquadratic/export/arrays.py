"""Arrays of tokens: checked, drawn, and turned from text and into it, without PyTorch.

Axes: B batch, N length, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .layout import TOKENIZER


def checked(tokens: Any, mask: Any, vocab_size: int, *, name: str = "tokens") -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, N) int64, 0 at padded positions, and the mask (B, N) bool.

    Raises:
        ValueError: for other shapes and types, and tokens that the model does not have.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] < 1 or tokens.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers (batch, length) with length at least 1, got {tokens.dtype} {tokens.shape}")
    real = np.ones(tokens.shape, dtype=bool) if mask is None else np.asarray(mask)
    if real.shape != tokens.shape or real.dtype != bool:
        raise ValueError(f"mask must be bool {tokens.shape}, True = real token, got {real.dtype} {real.shape}")
    tokens = np.where(real, tokens, 0).astype(np.int64)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise ValueError(f"{name} must be at least 0 and less than vocab_size={vocab_size}, got {tokens.min()} to {tokens.max()}")
    return tokens, real


def check_positions(real: np.ndarray, seen: np.ndarray | int, longest: int | None) -> None:
    """Raises ValueError where a row has more real tokens than positions, ``seen`` (B,) earlier ones included."""
    if longest is not None and len(real) and (most := int((real.sum(axis=1) + seen).max())) > longest:
        raise ValueError(f"the sequence has {most} positions, but max_length is {longest}: shorten it")


def choose(scores: np.ndarray, temperature: float, top_k: int | None, generator: np.random.Generator) -> np.ndarray:
    """(B, V) -> (B,) tokens."""
    if temperature == 0:
        return scores.argmax(axis=-1)
    scores = scores.astype(np.float64) / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = np.where(scores < np.partition(scores, -top_k, axis=-1)[:, -top_k, None], -np.inf, scores)
    return (scores + generator.gumbel(size=scores.shape)).argmax(axis=-1)  # the Gumbel trick: a draw from the softmax


class Texts:
    """The tokenizer beside the graphs.

    Args:
        folder: that holds it.
        roles: its special tokens, as onnx.json has them; None: there is no tokenizer.

    Raises:
        ValueError: if there is none.
        ModuleNotFoundError: without the package ``tokenizers``.
    """

    def __init__(self, folder: Path, roles: dict[str, Any] | None):
        if roles is None:
            raise ValueError(f"{folder} has no {TOKENIZER}: export the model with tokenizer=, or give it tokens")
        from tokenizers import Tokenizer

        self.roles, self._backend = roles, Tokenizer.from_file(str(folder / TOKENIZER))
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = bool(roles["split"])  # then their names in a text are text

    def encode(self, texts: Sequence[str], *, begin: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and mask (B, N), padded on the left; a text of no tokens is padding, or with ``begin`` the token that texts begin with."""
        rows = [line.ids for line in self._backend.encode_batch(list(texts))]
        if begin:
            rows = [row or [self.begin()] for row in rows]
        length = max([1, *map(len, rows)])
        mask = np.array([[False] * (length - len(row)) + [True] * len(row) for row in rows], dtype=bool).reshape(len(rows), length)
        tokens = np.zeros(mask.shape, dtype=np.int64)
        tokens[mask] = [token for row in rows for token in row]
        return tokens, mask

    def begin(self) -> int:
        """The token that texts begin with."""
        if (found := self.roles["bos"]) is None:
            raise ValueError("this tokenizer has no token that a text begins with: give a prompt of at least one token")
        return int(found)

    def decode(self, rows: Any) -> list[str]:
        """(B, N) tokens -> texts, each up to the token that ends it, without special tokens."""
        end, found = self.roles["eos"], []
        for row in np.asarray(rows).tolist():
            found.append(row[: row.index(end)] if end in row else row)
        return list(self._backend.decode_batch(found))
