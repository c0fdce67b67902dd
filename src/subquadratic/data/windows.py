"""Windows of equal length over one long array of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .mapping import place_in_file


class Windows(Dataset[Tensor]):
    """Item i is the `length` tokens from `offset + i * stride` on, as int64; a tail shorter than a window is left out.

    `tokens` may be a `numpy.memmap`: only the windows asked for are read, and a worker that gets these windows opens the
    file anew instead of getting its content. `stride` defaults to `length`, windows side by side.

    Raises:
        ValueError: the array is too short for one window; the message says how long it would have to be.
    """

    def __init__(self, tokens: NDArray[np.integer], *, length: int, stride: int | None = None, offset: int = 0) -> None:
        stride = length if stride is None else stride
        if length < 1 or stride < 1 or offset < 0:
            raise ValueError(f"length and stride must be at least 1 and offset at least 0, got {length}, {stride} and {offset}")
        if len(tokens) < offset + length:
            raise ValueError(
                f"a window of {length:,} tokens at offset {offset:,} needs at least {offset + length:,} tokens, "
                f"got {len(tokens):,}: use more text or a shorter window"
            )
        self.tokens, self.length, self.stride, self.offset = tokens, length, stride, offset

    def __len__(self) -> int:
        return (len(self.tokens) - self.offset - self.length) // self.stride + 1

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = self.offset + index % len(self) * self.stride
        return torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        place = place_in_file(self.tokens)
        if place is not None:
            state["tokens"] = place
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.tokens, dict):
            self.tokens = np.memmap(mode="r", **self.tokens)
