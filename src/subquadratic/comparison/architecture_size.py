"""The width of an architecture of transformers that has as many parameters as the models it is compared with."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch

from ..heads.quantization import parameter_count
from ..hf.architecture import Sizes, own_sizes
from .foreign import build
from .sizing import TOLERANCE, nearest

NOTHING = 10**15  # what a width counts that the architecture refuses: never the nearest


def sized_architecture(spec: dict[str, Any], parameters: int, *, vocab_size: int, length: int) -> dict[str, Any]:
    """The spec with `sizes`, which come nearest to `parameters`: width and inner width of the feed-forward layers. Depth, heads, and how
    many of them share keys and values stay as in the config.json. As it is where it fits, and where its configuration names its width
    otherwise than as `hidden_size`.

    Args:
        spec: of `foreign.build`, of a folder.
        length: tokens in a window.
    """

    def parameters_of(sizes: dict[str, int]) -> int:
        with torch.device("meta"):
            return parameter_count(build({**spec, "sizes": sizes}, vocab_size=vocab_size, length=length))

    sizes_there = own_sizes(spec["path"])
    if sizes_there is None or abs(parameters_of({}) / parameters - 1) <= TOLERANCE / 2:
        return spec
    own: Sizes = sizes_there

    @cache
    def count(dim: int, inner: int | None) -> int:
        try:
            return parameters_of(_sizes(dim, inner))
        except ValueError:
            return NOTHING

    def _sizes(dim: int, inner: int | None) -> dict[str, int]:
        usual = max(1, round(dim * own.inner / own.dim))
        return {"dim": dim, "inner": usual if inner is None else inner}

    step = math.lcm(2 * own.heads, own.heads * own.key_heads // math.gcd(own.heads, own.key_heads))
    found = nearest(parameters, count, [4 * step, step] if own.dim % (4 * step) == 0 else [step])
    return spec if found.parameters == NOTHING else {**spec, "sizes": _sizes(found.dim, found.inner)}
