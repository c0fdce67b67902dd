"""Lists of tokens of many lengths in one flat array."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TokenLists:
    """Lists of tokens in one flat array; item i is the i-th, as int64."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.flat = bytearray()
        self.ends = array("q", [0])

    def append(self, tokens: NDArray[Any]) -> None:
        self.flat += tokens.astype(self.dtype).tobytes()
        self.ends.append(self.ends[-1] + len(tokens))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Tensor:
        start, end = self.ends[index], self.ends[index + 1]
        tokens = np.frombuffer(self.flat, dtype=self.dtype, count=end - start, offset=start * self.dtype.itemsize)
        return torch.from_numpy(tokens.astype(np.int64))

    def longest(self) -> int:
        return int(np.diff(np.array(self.ends)).max())
