"""Inputs of the linear attention kernels, and the recurrence they compute, in float64 one position at a time."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from subquadratic.attention.favor.triton import gated_linear_attention

EMPTY = -1e30


class Case(NamedTuple):
    """In the order of the function's arguments."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    maximum: Tensor
    total: Tensor
    weight: Tensor
    start: Tensor

    def differentiable(self) -> tuple[Tensor, ...]:
        return self.queries, self.keys, self.values, self.total, self.weight

    def with_leaves(self, dtype: torch.dtype | None = None) -> "Case":
        """Fresh leaves, of another dtype where one is given."""
        leaves = [tensor.detach().to(dtype or tensor.dtype, copy=True) for tensor in self]
        for i in (0, 1, 2, 4, 5):
            leaves[i].requires_grad_()
        return Case(*leaves)


def case(
    batch: int, heads: int, length: int, features: int, width: int, *, dtype: torch.dtype, device: torch.device, empty: bool = False
) -> Case:
    """Heads split from (B, N, H, .) as a projection gives them; a state of something that came before, or of nothing."""
    queries, keys = torch.randn(2, batch, length, heads, features, dtype=torch.float64).transpose(2, 3).unbind()
    values = torch.randn(batch, length, heads, width, dtype=torch.float64).transpose(1, 2)
    start = torch.full((batch, heads, 1), EMPTY) if empty else torch.randn(batch, heads, 1)
    maximum = torch.maximum(keys.amax(-1).cummax(-1).values.float(), start)
    total, weight = torch.randn(batch, heads, features, width), torch.rand(batch, heads, features) + 0.5
    if empty:
        total, weight = torch.zeros_like(total), torch.zeros_like(weight)
    features_of_keys = (keys - maximum[..., None]).exp()
    case = Case(queries.sub(1).exp().to(dtype), features_of_keys.to(dtype), values.to(dtype), maximum, total, weight, start)
    return Case(*(tensor.to(device) for tensor in case))


def run(case: Case, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return gated_linear_attention(*case, cu_seqlens=cu_seqlens)


def recurrence(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Output, total and weight by the definition."""
    queries, keys, values, maximum, total, weight, arriving = case
    outputs = []
    for t in range(queries.shape[2]):
        decay = (arriving - maximum[:, :, t : t + 1]).exp()
        arriving = maximum[:, :, t : t + 1]
        total = total * decay[..., None] + keys[:, :, t, :, None] * values[:, :, t, None, :]
        weight = weight * decay + keys[:, :, t]
        outputs.append((queries[:, :, t, None] @ total)[:, :, 0] / (queries[:, :, t] * weight).sum(-1, keepdim=True))
    return torch.stack(outputs, dim=2), total, weight


def documents(case: Case, borders: list[int]) -> list[Case]:
    """Each document of a packed row by itself."""
    return [
        Case(*(tensor[:, :, a:b] for tensor in case[:4]), *(tensor[i : i + 1] for tensor in case[4:]))
        for i, (a, b) in enumerate(itertools.pairwise(borders))
    ]
