"""Real text that every machine has: the source code of Python's standard library, as bytes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Corpus, load_corpus
from ...data.tokenizers.bytes import ByteTokenizer
from ..claim import Setting

VOCABULARY = ByteTokenizer().vocab_size
"""Bytes, and what stands between files."""


def bytes_of_stdlib(setting: Setting) -> Corpus:
    """Training and validation text, split by top-level name."""
    return _corpus()


@functools.cache
def _corpus() -> Corpus:
    return load_corpus("stdlib")


def windows(tokens: Any, length: int, count: int, *, seed: int) -> Tensor:
    """Windows at random places: (count, length) int64."""
    starts = np.random.default_rng(seed).integers(len(tokens) - length + 1, size=count)
    return torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]).astype(np.int64))
