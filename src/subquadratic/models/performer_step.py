"""One new token through all layers of a Performer in one operation, where nobody could tell.

Axes: B batch, D width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.favor.layer import FavorAttention, FavorState
from ..attention.favor.mixing import FavorHeads
from ..attention.favor.native_layers import favor_layers_step
from ..attention.favor.state import FeatureState
from ..core.backend import PLAIN, are_float32, takes_native
from ..core.padding import count_on
from ..core.tracing import needs_gradient
from ..layers.feed_forward.layer import FeedForward
from ..layers.linear.int8 import Int8Linear
from ..layers.linear.layer import Linear
from ..layers.linear.op import FEW_ROWS_HERE, most_few_rows
from ..layers.residual import Branch, BranchState, ResidualStack, StackState
from ..layers.untouched import untouched_parts

KINDS = {
    Branch, FavorAttention, FavorHeads, FeedForward, Linear, Int8Linear, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.ModuleDict,
    ResidualStack,
}  # fmt: skip
NAMES = ("attention", "feed_forward")
READS = ("mask", "turns")


def step_at_once(stack: Any, x: Tensor, state: Any, mask: Tensor | None, turns: Tensor | None) -> tuple[Tensor, StackState] | None:
    """The stack's ``extend`` by one token of few rows, (B, 1, D), by the C kernels; None where it is to be made of the modules."""
    if torch.compiler.is_compiling() or mask is not None or x.shape[1] != 1 or not 0 < x.shape[0] <= FEW_ROWS_HERE:
        return None
    if torch.is_autocast_enabled("cpu") or not takes_native(None, x) or type(state) is not StackState:
        return None
    blocks = _blocks(stack)
    if not blocks or len(state.branches) != 2 * len(blocks):
        return None
    befores: list[Any] = [branch.layer for branch in state.branches[::2]]
    if not all(type(before) is FavorState and type(before.summary) is FeatureState for before in befores):
        return None
    parts = [part for before in befores for part in (before.summary.total, before.summary.weight, before.summary.maximum)]
    weights, scales, biases = (_flat(own(*block) for block in blocks) for own in (_weights, _scales, _biases))
    read = [*weights, *parts, *(one for one in (*scales, *biases, turns) if one is not None)]
    if needs_gradient(x, *read) or not all(type(one) in PLAIN for one in (x, *read)) or not _are_of_kernel(x, weights, scales, read):
        return None
    if any(len(part) != len(x) for part in parts) or not all(one.is_contiguous() for one in read):
        return None
    epsilons = [norm.eps for attention, forward in blocks for norm in (attention.norm, forward.norm)]
    y, *after = favor_layers_step(
        x.reshape(len(x), -1).contiguous(), turns, weights, scales, biases, parts, blocks[0][0].layer.heads, epsilons
    )
    states: list[BranchState] = []
    seen = count_on(befores[0].seen, None, 1)  # the same for all layers
    for layer in range(len(blocks)):
        summary = FeatureState(*after[3 * layer : 3 * layer + 3])
        states += [BranchState(None, FavorState(summary, None, seen)), BranchState(None, None)]
    return y.unsqueeze(1), StackState(tuple(states))


def _blocks(stack: Any) -> list[tuple[Any, Any]] | None:
    """The branches of each layer of a stack that holds nothing else than what the kernels compute, untouched."""
    if type(stack) is not ResidualStack or stack.reversible:
        return None
    parts = untouched_parts(stack, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.ModuleDict)
    if parts is None or not KINDS.issuperset(map(type, parts)):
        return None
    if any(type(part) is nn.Dropout and part.training and part.p for part in parts):
        return None
    blocks: Any = [tuple(block.items()) for block in stack.blocks]  # type: ignore[operator]
    if any(tuple(name for name, _ in block) != NAMES for block in blocks):
        return None
    found = [(attention, forward) for (_, attention), (_, forward) in blocks]
    return found if all(_is_plain_branch(*block) for block in found) and len({block[0].layer.heads for block in found}) == 1 else None


def _is_plain_branch(attention: Any, forward: Any) -> bool:
    layer, feed = attention.layer, forward.layer
    if type(layer) is not FavorAttention or type(feed) is not FeedForward or type(layer.favor) is not FavorHeads or feed.chunks != 1:
        return False
    if not all(type(branch.norm) is nn.LayerNorm and branch.norm.bias is not None for branch in (attention, forward)):
        return False
    favor = layer.favor
    plain = favor.kernel == "softmax" and not favor.feature_epsilon and favor.fixed is None
    return plain and layer.causal and not layer.local_heads and attention.reads == READS


def _are_of_kernel(x: Tensor, weights: list[Any], scales: list[Any], read: list[Tensor]) -> bool:
    """Whether all is float32 but the weights that have scales, which are int8, and rows are few enough."""
    if all(scale is None for scale in scales):
        return len(x) <= most_few_rows() and are_float32(x.device, [x, *read])
    whole = {id(weight) for weight, scale in zip(weights, scales, strict=True) if scale is not None}
    return are_float32(x.device, [x, *(one for one in read if id(one) not in whole)])


def _weights(attention: Any, forward: Any) -> list[Tensor]:
    layer, feed = attention.layer, forward.layer
    maps = [layer.query.weight, layer.key.weight, layer.value.weight, layer.favor.projection, layer.output.weight]
    return [attention.norm.weight, *maps, forward.norm.weight, feed.expand.weight, feed.contract.weight]


def _biases(attention: Any, forward: Any) -> list[Tensor | None]:
    layer, feed = attention.layer, forward.layer
    maps = [layer.query.bias, layer.key.bias, layer.value.bias, layer.output.bias]
    return [attention.norm.bias, *maps, forward.norm.bias, feed.expand.bias, feed.contract.bias]


def _scales(attention: Any, forward: Any) -> list[Tensor | None]:
    """Of the weights: None of those that are float32."""
    layer, feed = attention.layer, forward.layer
    maps = [layer.query, layer.key, layer.value, None, layer.output, None, feed.expand, feed.contract]
    return [None, *(one.scale if type(one) is Int8Linear else None for one in maps)]


def _flat(groups: Iterable[list[Any]]) -> list[Any]:
    return [one for group in groups for one in group]
