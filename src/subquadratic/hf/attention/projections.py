"""The random projections of FAVOR+ in models of transformers: drawn from a seed, kept per device, never parameters or buffers.

A buffer would be missing from every checkpoint, and be left at random numbers by `from_pretrained`; a matrix that follows from the seed in
the configuration is the same wherever it is needed.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ...attention.favor.features import orthogonal_gaussian


def projection(features: int, width: int, scaling: int, seed: int, layer: int, device: torch.device) -> Tensor:
    """(M, K) in float32, the same for the same arguments."""
    drawn = _operator if torch.compiler.is_dynamo_compiling() else _kept
    return drawn(features, width, scaling, seed, layer, device)


@torch.library.custom_op("subquadratic::projection", mutates_args=())
def _operator(features: int, width: int, scaling: int, seed: int, layer: int, device: torch.device) -> Tensor:
    """What compilers follow; a copy, since they may write over what an operator gives."""
    return _kept(features, width, scaling, seed, layer, device).clone()


@_operator.register_fake
def _(features: int, width: int, scaling: int, seed: int, layer: int, device: torch.device) -> Tensor:
    return torch.empty(features, width, dtype=torch.float32, device=device)


@lru_cache(maxsize=512)
def _kept(features: int, width: int, scaling: int, seed: int, layer: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    # What is kept must be usable in training, too, and be numbers, whatever stand-ins a tracer makes at the moment.
    with torch.inference_mode(False), _disable_current_modes(), torch.device("cpu"):
        return orthogonal_gaussian(features, width, scaling=scaling, generator=generator, device=device, dtype=torch.float32)
