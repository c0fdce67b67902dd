"""When a Feedback Transformer may run as one operation, and how its modules' parameters are handed to it.

Axes: B batch, N length, D width, G key-value maps, H heads, K head width, M memories.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...attention.feedback.layer import FeedbackAttention
from ...attention.feedback.op import feedback_recurrence
from ...attention.feedback.segments import Segments
from ...attention.feedback.weights import LAYER_EPSILON, SCALE_EPSILON, LayerWeights, MemoryWeights
from ...core.backend import PLAIN, is_traced
from ...layers.feed_forward.layer import FeedForward
from ...layers.linear.int8 import Int8Linear
from ...layers.norms.layer import ScaleNorm
from ...layers.untouched import untouched_parts
from ..configs.feedback_transformer import FeedbackTransformerConfig
from .loop import BiasTable, FeedbackState
from .stack import FeedbackLayer

WORTH_WIDENING = 16  # tokens, for which int8 weights become those of x; fewer go through the modules
FOREIGN = (nn.Linear, nn.Dropout, nn.LayerNorm, nn.ModuleList)


def runs_fast(config: FeedbackTransformerConfig, stack: nn.Module, x: Tensor) -> bool:
    """Whether the whole recurrence may be one operation.

    It may for segments of one token, in float32 or float64 throughout, of plain tensors, by the modules that the model was built with. Not
    with dropout at work, cross-attention, checkpointing that has something to save, or autocast; nor while PyTorch compiles, exports,
    transforms functions or keeps hooks for a module in the loop, for which there must be modules that run.
    """
    return (
        config.segment_length == 1
        and not config.cross_attention
        and not (config.checkpointing and torch.is_grad_enabled())
        and not is_traced()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled(x.device.type)
        and x.dtype in (torch.float32, torch.float64)
        and type(x) is Tensor
        and x.shape[0] > 0
        and _as_built(stack, x)
    )


def run_fast(
    config: FeedbackTransformerConfig,
    stack: Any,
    bias_table: BiasTable | None,
    segments: Segments,
    state: FeedbackState | None,
    count: Tensor | None,
) -> tuple[Tensor, FeedbackState | None]:
    """All columns (B, W, D), and with a state before, the state after them: ``count`` (B,) more tokens. No bias without ``bias_table``."""
    memory, x, length, window = stack.memory, segments.x, segments.x.shape[1], config.memory_length
    before = empty = bias = None
    if state is not None:
        before, empty = state.memory.to(x.dtype), (window - state.seen).clamp_min(0)
    if bias_table is not None:
        bias = bias_table(min(window, length + (0 if state is None else window)), 0, like=x)[:, 0].to(x.dtype)
    shared = MemoryWeights(memory.weights(), *_norm_weights(memory.norm), _weight(memory.key_value, x), bias)
    layers = [_layer_weights(layer, x) for layer in stack.layers]
    y, line = feedback_recurrence(x, before, empty, shared, layers, heads=config.heads, window=window, detach_every=config.detach_every)
    if state is None or count is None:
        return y, None
    if segments.end is None:
        kept = line[..., length:, :]
    else:
        places = segments.end[:, None] + torch.arange(window, device=line.device)
        kept = line.gather(-2, places[None, None, :, None, :, None].expand(2, line.shape[1], -1, line.shape[3], -1, line.shape[5]))
    return y, FeedbackState(state.seen + count, kept.permute(2, 4, 1, 0, 3, 5).contiguous(), None, state.context)


def _as_built(stack: nn.Module, x: Tensor) -> bool:
    """Whether each module does what its class says and nothing besides, without dropout, with plain parameters of the kind of ``x``."""
    parts = untouched_parts(stack, *FOREIGN)
    return parts is not None and all(_is_readable(part, x) for part in parts)


def _is_readable(module: nn.Module, x: Tensor) -> bool:
    kind = type(module)
    if kind is nn.LayerNorm:
        assert isinstance(module, nn.LayerNorm)
        if module.eps != LAYER_EPSILON or module.bias is None:
            return False
    elif kind is ScaleNorm:
        assert isinstance(module, ScaleNorm)
        if module.epsilon != SCALE_EPSILON:
            return False
    elif kind is Int8Linear:
        return x.shape[1] >= WORTH_WIDENING and not x.requires_grad and not (module.training and torch.is_grad_enabled())
    elif kind is nn.Dropout:
        if module.training and module.p:
            return False
    elif kind is FeedbackAttention:
        assert isinstance(module, FeedbackAttention)
        if (module.training and module.dropout) or len(module.query.weight) != module.heads * module.width:
            return False  # on a rank of tensor parallelism there are fewer heads
    return all(
        parameter is None or (type(parameter) in PLAIN and parameter.dtype is x.dtype and parameter.device == x.device)
        for parameter in module._parameters.values()
    )


def _weight(layer: Any, x: Tensor) -> Tensor:
    return layer.widened(x.dtype) if type(layer) is Int8Linear else layer.weight


def _norm_weights(norm: nn.Module | None) -> tuple[Tensor | None, Tensor | None]:
    if norm is None:
        return None, None
    if isinstance(norm, ScaleNorm):
        return norm.gain, None
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight, norm.bias


def _layer_weights(layer: nn.Module, x: Tensor) -> LayerWeights:
    assert isinstance(layer, FeedbackLayer) and isinstance(layer.feed_forward.layer, FeedForward)
    attention, branch, inner = layer.attention, layer.feed_forward, layer.feed_forward.layer
    return LayerWeights(
        *_norm_weights(layer.norm),
        _weight(attention.query, x),
        _weight(attention.output, x),
        attention.output.bias,
        None if layer.gain is None else layer.gain.gain,
        *_norm_weights(branch.norm),
        _weight(inner.expand, x),
        inner.expand.bias,
        _weight(inner.contract, x),
        inner.contract.bias,
        None if branch.gain is None else branch.gain.gain,
    )
