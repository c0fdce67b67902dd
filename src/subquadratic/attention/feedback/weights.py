"""What a feedback recurrence is made of: its parameters as plain tensors, its times, its trace, its norms forward and backward.

A norm is told by what it has: weight and bias, a layer norm; a weight alone (one number), a scale norm; neither, none.

Axes: B batch, D width, H heads, K head width, F inner width, F' width of the expanding map (2 F with a gate), G key-value maps, L layers,
M memories, N tokens, S keys of a window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.vector_length import vector_length

LAYER_EPSILON, SCALE_EPSILON = 1e-5, 1e-5
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class LayerWeights(NamedTuple):
    """One layer."""

    norm_weight: Tensor | None  # (D,) or (1,)
    norm_bias: Tensor | None  # (D,)
    query: Tensor  # (H K, D)
    output: Tensor  # (D, H K)
    output_bias: Tensor  # (D,)
    output_gain: Tensor | None  # (): of what attention adds; None: 1
    inner_norm_weight: Tensor | None  # (D,) or (1,)
    inner_norm_bias: Tensor | None  # (D,)
    expand: Tensor  # (F', D)
    expand_bias: Tensor  # (F',)
    contract: Tensor  # (D, F)
    contract_bias: Tensor  # (D,)
    contract_gain: Tensor | None  # (): of what the feed-forward adds; None: 1


class MemoryWeights(NamedTuple):
    """What all layers share."""

    mixture: Tensor | None  # (L + 1,), of the input and each layer's output in a memory; None: the last layer's output alone
    norm_weight: Tensor | None  # (D,) or (1,)
    norm_bias: Tensor | None  # (D,)
    key_value: Tensor  # (G 2 H K, D)
    bias: Tensor | None  # (H, M), of the scores; the last column is for the newest memory


class Shape(NamedTuple):
    """Sizes and times, all known before the loop."""

    heads: int
    groups: int
    window: int  # M, the most memories that a token sees
    lead: int  # places of the line before the first token
    first: int  # the first place of the line that any row may see
    hidden: int  # how many tokens have memories in sight that some row must not see
    detach_every: int | None
    stateful: bool  # whether the line is wanted, so that the last token's memory is made too

    def begin(self, token: int) -> int:
        """Place where the window of a token begins; it ends at ``lead + token``."""
        return max(self.lead + token - self.window, self.first)

    def cut(self, token: int) -> int:
        """Place before which gradients of a token do not reach."""
        passed = 0 if self.detach_every is None else token // self.detach_every * self.detach_every
        return self.lead + passed if passed else 0


class Trace(NamedTuple):
    """What the forward loop leaves for backward."""

    hidden: Tensor  # (N, L + 1, B, D) the input and each layer's output
    middle: Tensor  # (L, N, B, D) after attention
    queries: Tensor  # (N, L, B, H K)
    attended: Tensor  # (N, L, B, H K)
    weights: list[Tensor]  # N of (L, B H, 1, S), softmax over the window; without a window, S = 0
    expanded: Tensor  # (L, N, B, F')
    active: Tensor  # (L, N, B, F)
    merged: Tensor  # (N, B, D)


def flatten(memory: MemoryWeights, layers: Sequence[LayerWeights]) -> list[Tensor | None]:
    """All parameters in a row."""
    return [*memory, *(tensor for layer in layers for tensor in layer)]


def unflatten(flat: Sequence[Tensor | None]) -> tuple[MemoryWeights, list[LayerWeights]]:
    """Undo :func:`flatten`."""
    start, size = len(MemoryWeights._fields), len(LayerWeights._fields)
    layers = [LayerWeights(*flat[at : at + size]) for at in range(start, len(flat), size)]  # type: ignore[arg-type]
    return MemoryWeights(*flat[:start]), layers  # type: ignore[arg-type]


def with_gain(gain: Tensor | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A map whose result is multiplied by ``gain``, as one map."""
    return (weight, bias) if gain is None else (weight * gain, bias * gain)


class Norm:
    """A norm over the last axis, with backward in two halves: of the input, step by step; of the parameters, over all steps at once."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None):
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if self.weight is None:
            return x
        if self.bias is not None:
            return torch.native_layer_norm(x, x.shape[-1:], self.weight, self.bias, LAYER_EPSILON)[0]
        return x * (self.weight / vector_length(x, least=SCALE_EPSILON))

    def prepare(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """For backward, of inputs (N, B, D): the normed, and what :meth:`input_gradient` needs."""
        if self.weight is None:
            return x, ()
        if self.bias is not None:
            normed, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], self.weight, self.bias, LAYER_EPSILON)
            return normed, (x, mean, inverse)
        size = x.norm(dim=-1, keepdim=True)
        factor = self.weight / size.clamp_min(SCALE_EPSILON)
        pull = torch.where(size > SCALE_EPSILON, factor / size.clamp_min(SCALE_EPSILON).square(), 0.0) * x
        return x * factor, (x, factor, pull)

    def input_gradient(self, gradient: Tensor, prepared: tuple[Tensor, ...]) -> Tensor:
        """From the gradient of the normed, of all steps or with one step's part of ``prepared`` of one: (..., B, D) -> (..., B, D)."""
        if self.weight is None:
            return gradient
        if self.bias is not None:
            x, mean, inverse = prepared
            return _layer_norm_backward(gradient, x, x.shape[-1:], mean, inverse, self.weight, self.bias, (True, False, False))[0]
        x, factor, pull = prepared
        return torch.addcmul(gradient * factor, pull, (gradient * x).sum(dim=-1, keepdim=True), value=-1)

    def parameter_gradients(self, gradient: Tensor, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """From the gradient of the normed (T, B, D) and the input: of weight and bias."""
        if self.weight is None:
            return None, None
        if self.bias is None:
            return (gradient * (x / vector_length(x, least=SCALE_EPSILON))).sum().view(1), None
        plain = torch.native_layer_norm(x, x.shape[-1:], None, None, LAYER_EPSILON)[0]
        return (gradient * plain).flatten(0, -2).sum(dim=0), gradient.flatten(0, -2).sum(dim=0)


def split_steps(prepared: tuple[Tensor, ...], steps: int) -> list[tuple[Tensor, ...]]:
    """What :meth:`Norm.prepare` gave, step by step."""
    return list(zip(*(part.unbind(0) for part in prepared), strict=True)) if prepared else [()] * steps
