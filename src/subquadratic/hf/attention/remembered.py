"""The summary of a cache's keys, kept from one token to the next.

transformers hands a layer all keys of its cache, whatever was done to it since: it may have been cropped, reordered by a beam search, or
belong to another sequence. So a kept summary is used only for keys and values that have the random sums that it was made of; to compare
them reads each once, as exact attention does, where a new summary costs M times as much.

Axes: B batch, H heads of queries, J heads of keys, S length (keys), K head width, M features.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...attention.favor.state import FeatureState
from ...core.tracing import may_look, needs_gradient

FEW = 64  # keys: below, a new summary costs less than to look whether the old one holds
TOLERANCE = 4e-6  # of the sums' size; they are summed alike each time, and another token changes them by 1 / sqrt(S) of it or so


@dataclass(frozen=True)
class Past:
    """A summary, and what it is of."""

    length: int
    state: FeatureState
    projection: Tensor
    sums: tuple[Tensor, Tensor]  # (B, J, K) each: random sums of keys and values
    real: Tensor | None


_pasts: "WeakKeyDictionary[nn.Module, Past]" = WeakKeyDictionary()
_multipliers: dict[torch.device, Tensor] = {}


def recall(module: nn.Module, keys: Tensor, values: Tensor, real: Tensor | None, projection: Tensor) -> FeatureState | None:
    """The summary of (B, J, S, K) keys and values, if it was kept; ``real`` (B, S) says which are real."""
    past = _pasts.get(module)
    length = keys.shape[2]
    if past is None or past.length != length or past.projection is not projection or not _usable(keys, values):
        return None
    if past.sums[0].shape != keys.shape[:2] + keys.shape[3:] or past.sums[0].device != keys.device or not _same_mask(past.real, real):
        return None
    for kept, tensor in zip(past.sums, (keys, values), strict=True):
        new = _sum(tensor)
        if kept.dtype != new.dtype or not bool(((new - kept).abs() <= TOLERANCE * kept.abs().amax(dim=-1, keepdim=True)).all()):
            return None
    return past.state


def keep(module: nn.Module, keys: Tensor, values: Tensor, real: Tensor | None, projection: Tensor, state: FeatureState) -> None:
    """Remember the summary of all keys and values for the next call of a module."""
    if keys.shape[2] >= FEW and _usable(keys, values):
        _pasts[module] = Past(keys.shape[2], state, projection, (_sum(keys), _sum(values)), real)
    else:
        _pasts.pop(module, None)


def _usable(keys: Tensor, values: Tensor) -> bool:
    return may_look(keys) and not needs_gradient(keys, values)


def _same_mask(kept: Tensor | None, real: Tensor | None) -> bool:
    if kept is None or real is None:
        return kept is real
    return torch.equal(kept, real)


def _sum(tensor: Tensor) -> Tensor:
    """(B, J, S, K) to (B, J, K): the sum over positions, each times a random number of its own, from 1 to 2 or -2 to -1: none so small
    that it hides its token."""
    length = tensor.shape[2]
    kept = _multipliers.get(tensor.device)
    if kept is None or len(kept) < length:
        size = max(4096, 1 << (length - 1).bit_length())
        kept = 4 * torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float32) - 2
        kept = (torch.where(kept < 0, kept - 2, kept + 2) / 2).to(tensor.device)
        _multipliers[tensor.device] = kept
    exact = tensor if tensor.dtype is torch.float64 else tensor.float()
    return torch.einsum("s,bjsk->bjk", kept[:length].to(exact.dtype), exact)
