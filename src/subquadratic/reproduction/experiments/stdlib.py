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


def packages(names: tuple[str, ...], length: int, *, validation_share: float = 0.2) -> tuple[list[Any], list[Any]]:
    """The text of some packages of the standard library, each as (bytes to train on, bytes to validate on): whole files on either side.

    Raises:
        ValueError: a package has too little text for one window on each side.
    """
    import sysconfig
    from pathlib import Path

    root = Path(sysconfig.get_paths()["stdlib"])
    train, validation = [], []
    for name in names:
        files = sorted((root / name).rglob("*.py"))
        texts = [text for file in files if "test" not in file.relative_to(root).parts if len(text := file.read_bytes()) >= 200]
        sides: list[list[bytes]] = [[], []]
        for text in sorted(texts, key=len, reverse=True):  # the next longest to the side that is further from its share
            held, kept = (sum(map(len, side)) for side in (sides[1], sides[0]))
            sides[int(held < validation_share * (held + kept))].append(text)
        joined = [np.frombuffer(b"\n".join(side), dtype=np.uint8) for side in sides]
        if min(map(len, joined)) < length:
            raise ValueError(f"the package {name} of {root} has too little text for windows of {length:,} bytes")
        train.append(joined[0])
        validation.append(joined[1])
    return train, validation


def labelled(texts: list[Any], length: int, count: int, *, seed: int) -> dict[str, Tensor]:
    """Windows of texts chosen at random: `tokens` (count, length), and which text each is from, `labels` (count,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(texts), size=count)
    starts = [int(rng.integers(len(texts[label]) - length + 1)) for label in labels]
    rows = [texts[label][start : start + length] for label, start in zip(labels, starts, strict=True)]
    return {"tokens": torch.from_numpy(np.stack(rows).astype(np.int64)), "labels": torch.from_numpy(labels)}
