"""Inputs of the running mean kernels, and the recurrence they compute, in float64 one position at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from subquadratic.attention.additive.triton import running_softmax_mean

EMPTY = -1e30


class Case(NamedTuple):
    """In the order of the function's arguments."""

    logits: Tensor
    values: Tensor
    maximum: Tensor
    weight: Tensor
    total: Tensor

    def differentiable(self) -> tuple[Tensor, ...]:
        return self.logits, self.values, self.weight, self.total

    def with_leaves(self, dtype: torch.dtype | None = None) -> "Case":
        """Fresh leaves, of another dtype where one is given."""
        leaves = [tensor.detach().to(dtype or tensor.dtype, copy=True) for tensor in self]
        for i in (0, 1, 3, 4):
            leaves[i].requires_grad_()
        return Case(*leaves)


def case(batch: int, heads: int, length: int, width: int, *, dtype: torch.dtype, device: torch.device, empty: bool = False) -> Case:
    """Heads split from (B, N, H, .) as a projection gives them; a state of something that came before, or of nothing."""
    logits = torch.randn(batch, length, heads).transpose(1, 2) * 3
    values = torch.randn(batch, length, heads, width).transpose(1, 2).to(dtype)
    maximum, weight, total = torch.randn(batch, heads, 1), torch.rand(batch, heads, 1) + 0.5, torch.randn(batch, heads, width)
    if empty:
        maximum, weight, total = torch.full_like(maximum, EMPTY), torch.zeros_like(weight), torch.zeros_like(total)
    return Case(*(tensor.to(device) for tensor in (logits, values, maximum, weight, total)))


def run(case: Case, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Output, weight and total: what has gradients."""
    output, _, weight, total = running_softmax_mean(*case, cu_seqlens=cu_seqlens)
    return output, weight, total


def recurrence(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Output, weight and total by the definition."""
    logits, values, arriving, weight, total = case
    outputs = []
    for t in range(logits.shape[2]):
        maximum = torch.maximum(arriving, logits.detach()[:, :, t : t + 1])
        decay, share = (arriving - maximum).exp(), (logits[:, :, t : t + 1] - maximum).exp()
        weight, total, arriving = weight * decay + share, total * decay + share * values[:, :, t], maximum
        outputs.append(total / weight)
    return torch.stack(outputs, dim=2), weight, total
