"""A feedback recurrence as one differentiable operation: token after token through all layers, each reading the memories before it.

Autograd would build a graph of some hundred nodes per token and add up each weight's gradient token by token. Here the loop forward writes
what backward needs into storage made before it, the loop backward (`feedback_gradient.py`) follows input gradients alone, and a weight's
gradient is one product over all tokens at the end. Weights are read as they are, memories where they lie: the time of a step is that of
reading the weights. On a CUDA device, where starting the kernels takes longer than they do, both loops are replayed as graphs.

Axes: B batch, N tokens, D width, L layers, G key-value maps, H heads, K head width, F inner width, M memories, S keys of a window, T places
of the line: those before (M, or none) and the tokens'.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.numerics import HIDDEN, no_autocast
from ...kernels.derivatives import differentiable, is_transformed, keep, kept
from ...replay.cuda_graph import Replayed
from .gradient import backward
from .native import run_forward, suits
from .products import Product
from .weights import LayerWeights, MemoryWeights, Norm, Shape, Trace, flatten, unflatten, with_gain


def feedback_recurrence(
    x: Tensor,
    before: Tensor | None,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: list[LayerWeights],
    *,
    heads: int,
    window: int,
    detach_every: int | None = None,
) -> tuple[Tensor, Tensor]:
    """All tokens of a sequence, one after another.

    Args:
        x: (B, N, D), N at least 1; float32 or float64, as all parameters.
        before: (B, M, G, 2, H, K), keys and values of the memories before, the newest last; None: no memory before, and none made of the
            last token.
        empty: (B,) int64, how many of the oldest of these each row does not have; with ``before`` only.
        memory, layers: the parameters.
        heads, window: H, M.
        detach_every: gradients do not reach memories from before the last multiple of this many tokens.

    Returns:
        The last layer's output (B, N, D), and the line of memories (2, G, B, H, T, K), where T is N, or M + N with ``before``.

    Derivatives beyond a first one in reverse mode are those of :func:`feedback_recurrence_reference`: slow, and with all that it makes.
    """
    if is_transformed():
        options = dict(heads=heads, window=window, detach_every=detach_every)
        return feedback_recurrence_reference(x, before, empty, memory, layers, **options)  # type: ignore[arg-type]
    groups = memory.key_value.shape[0] // (2 * layers[0].query.shape[0])
    first = hidden = lead = 0
    if before is not None and empty is not None:
        lead = before.shape[1]
        # Elsewhere than on a CPU, asking for numbers would wait for the device.
        first, hidden = (int(empty.min()), int(empty.max())) if empty.device.type == "cpu" else (0, lead)
        hidden = hidden if hidden > first else 0
    shape = Shape(heads, groups, window, lead, first, min(hidden, x.shape[1]), detach_every, before is not None)
    flat = flatten(memory, layers)
    with no_autocast(x):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, before, *flat)):
            return _Recurrence.apply(shape, x, before, empty, *flat)
        made, fixed = _parted(flat)
        with torch.no_grad():  # nothing here needs a gradient, and where one is recorded nothing is replayed
            return _loop(_forward_loop, x.shape[1] * len(layers), x, before, empty, made, shape, False, fixed=fixed)[:2]


STEPS = 1 << 13  # tokens times layers of a graph: a dozen kernels each, some microseconds of preparation a kernel
BYTES = 1 << 30  # of a graph's trace: copying it takes a device less than a millisecond, the loop several


def _parted(flat: Sequence[Tensor | None]) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """The mixture and the bias, which are made anew for each call, and all other parameters, which a graph reads where they lie."""
    return (flat[0], flat[4]), (*flat[1:4], *flat[5:])


def _whole(made: Sequence[Tensor | None], fixed: Sequence[Tensor | None]) -> tuple[MemoryWeights, list[LayerWeights]]:
    """Undo :func:`_parted`."""
    return unflatten((made[0], *fixed[:3], made[1], *fixed[3:]))


def _run_all(
    x: Tensor, before: Tensor | None, empty: Tensor | None, made: tuple[Tensor | None, ...], shape: Shape, keep: bool, *fixed: Tensor | None
) -> tuple[Tensor, Tensor, Trace | None]:
    y, line, trace = run(shape, x, before, empty, *_whole(made, fixed), keep=keep)
    return y, line, trace if keep else None


def _run_back(
    line: Tensor,
    empty: Tensor | None,
    made: tuple[Tensor | None, ...],
    shape: Shape,
    trace: Trace,
    d_y: Tensor | None,
    d_line: Tensor | None,
    wants: tuple[bool, ...],
    wants_before: bool,
    *fixed: Tensor | None,
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    return backward(shape, line, empty, *_whole(made, fixed), trace, d_y, d_line, wants=wants, wants_before=wants_before)


_forward_loop, _backward_loop = Replayed(_run_all, graphs=2, limit=BYTES), Replayed(_run_back, graphs=2, limit=BYTES)


def _loop(replayed: Replayed, steps: int, *given: Any, fixed: tuple[Tensor | None, ...]) -> Any:
    return replayed(*given, fixed=fixed) if steps <= STEPS else replayed.function(*given, *fixed)


def _composition(shape: Shape, x: Tensor, before: Tensor | None, empty: Tensor | None, *flat: Tensor | None) -> tuple[Tensor, Tensor]:
    memory, layers = unflatten(flat)
    options = dict(heads=shape.heads, window=shape.window, detach_every=shape.detach_every)
    return feedback_recurrence_reference(x, before, empty, memory, layers, **options)  # type: ignore[arg-type]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, shape: Shape, x: Tensor, before: Tensor | None, empty: Tensor | None, *flat: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        made, fixed = _parted(flat)
        y, line, trace = _loop(_forward_loop, x.shape[1] * len(unflatten(flat)[1]), x, before, empty, made, shape, True, fixed=fixed)
        keep(ctx, (shape, x, before, empty, *flat), line, *trace.weights, *(part for part in trace if isinstance(part, Tensor)))
        return y, line

    @staticmethod
    @differentiable(_composition)
    def backward(ctx: Any, d_y: Tensor | None, d_line: Tensor | None) -> tuple[Tensor | None, ...]:
        (shape, _, _, empty, *flat), (line, *saved) = kept(ctx)
        *weights, hidden, middle, queries, attended, expanded, active, merged = saved
        trace = Trace(hidden, middle, queries, attended, weights, expanded, active, merged)
        wants, wants_before = ctx.needs_input_grad[4:], ctx.needs_input_grad[2]
        made, fixed = _parted(flat)
        given = (line, empty, made, shape, trace, d_y, d_line, wants, wants_before)
        d_x, d_before, d_flat = _loop(_backward_loop, middle.shape[0] * middle.shape[1], *given, fixed=fixed)
        return None, d_x, d_before, None, *d_flat


def run(
    shape: Shape,
    x: Tensor,
    before: Tensor | None,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: list[LayerWeights],
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Trace]:
    """The loop forward. With ``keep`` False the trace has room for one token, and is of no use afterwards."""
    (batch, length, dim), depth, heads = x.shape, len(layers), shape.heads
    wide = layers[0].query.shape[0]
    width, rows = wide // heads, batch * heads
    many = length if keep else 1
    make = x.new_empty
    trace = Trace(
        hidden=make(many, depth + 1, batch, dim),
        middle=make(depth, many, batch, dim),
        queries=make(many, depth, batch, wide),
        attended=make(many, depth, batch, wide),
        weights=[],
        expanded=make(depth, many, batch, layers[0].expand.shape[0]),
        active=make(depth, many, batch, layers[0].contract.shape[1]),
        merged=make(many, batch, dim),
    )
    line = make(2, shape.groups, batch, heads, shape.lead + length, width)
    if before is not None:
        line[..., : shape.lead, :].copy_(before.permute(3, 2, 0, 4, 1, 5))
    outputs = make(0 if keep else length, batch, dim)
    steps = x.transpose(0, 1).contiguous()
    if suits(x, layers, heads, length):
        trace = run_forward(shape, steps, empty, memory, layers, trace, line, None if keep else outputs)
        y = trace.hidden[:, depth] if keep else outputs
        return y.transpose(0, 1).clone(memory_format=torch.contiguous_format), line, trace
    if keep:
        trace.hidden[:, 0].copy_(steps)

    maps = [_Maps(layer, rows=batch, steps=length) for layer in layers]
    first_queries = torch.mm(maps[0].norm(steps).flatten(0, 1), layers[0].query.mT).view(length, batch, wide).unbind(0)
    memory_norm, key_value = Norm(memory.norm_weight, memory.norm_bias), Product(memory.key_value, rows=batch, steps=length)
    made = make(batch, memory.key_value.shape[0])
    made_view = made.view(batch, shape.groups, 2, heads, width).permute(2, 1, 0, 3, 4)
    mixture = None if memory.mixture is None else memory.mixture.view(1, -1)
    keys, values = ([group.flatten(0, 1) for group in part.unbind(0)] for part in line.unbind(0))  # (B H, T, K)
    places = line.unbind(-2)
    bias = None if memory.bias is None else memory.bias.repeat(batch, 1)[:, None]
    no_bias = x.new_zeros(())
    scale = width**-0.5

    views = [[layer.unbind(0) for layer in part.unbind(0)] for part in (trace.middle, trace.expanded, trace.active)]
    hidden = [token.unbind(0) for token in trace.hidden.unbind(0)]
    queries = [token.unbind(0) for token in trace.queries.unbind(0)]
    attended = [token.unbind(0) for token in trace.attended.unbind(0)]
    asked = [token.unbind(0) for token in trace.queries.view(many, depth, rows, 1, width).unbind(0)]
    answered = [token.unbind(0) for token in trace.attended.view(many, depth, rows, 1, width).unbind(0)]
    gated = trace.expanded.shape[-1] > trace.active.shape[-1]
    gates, gated_values = ([layer.unbind(0) for layer in half.unbind(0)] for half in trace.expanded.tensor_split(2, dim=-1))
    bmm, baddbmm, softmax, mul, gelu, gelu_into = torch.bmm, torch.baddbmm, torch.softmax, torch.mul, F.gelu, torch.ops.aten.gelu.out
    for token in range(length):
        slot = token if keep else 0
        h = steps[token]
        if not keep:
            hidden[0][0].copy_(h)
        begin, end = shape.begin(token), shape.lead + token
        seen = end - begin
        weights = make(depth, rows, 1, seen)
        if keep:
            trace.weights.append(weights)
        if seen:
            key_views = [part[:, begin:end].mT for part in keys]
            value_views = [part[:, begin:end] for part in values]
            added = no_bias if bias is None else bias[..., bias.shape[-1] - seen :]
            beta, present = 0 if bias is None else 1, None
            if token < shape.hidden and empty is not None:
                added, some = _hide(added, empty, begin, end, rows)
                beta, present = 1, some if token == 0 else None  # later tokens see the first one's memory
            known = weights.unbind(0)
        for index, layer in enumerate(maps):
            middle, expanded, active = views[0][index][slot], views[1][index][slot], views[2][index][slot]
            if seen:
                if index:
                    layer.query.into(layer.norm(h), queries[slot][index])
                else:
                    queries[slot][0].copy_(first_queries[token])
                group = index % shape.groups
                scores = baddbmm(added, asked[slot][index], key_views[group], beta=beta, alpha=scale)
                softmax(scores, -1, out=known[index])
                bmm(known[index], value_views[group], out=answered[slot][index])
                layer.output.added_to(h, attended[slot][index], middle)
                if present is not None:
                    torch.where(present, middle, h, out=middle)
            else:
                middle.copy_(h)
            layer.expand.into(layer.inner_norm(middle), expanded)
            if gated:
                mul(gelu(gates[index][slot]), gated_values[index][slot], out=active)
            else:
                gelu_into(expanded, out=active)
            h = layer.contract.added_to(middle, active, hidden[slot][index + 1])
        if not keep:
            outputs[token].copy_(h)
        if shape.stateful or token + 1 < length:
            merged = trace.merged[slot]
            if mixture is None:
                merged.copy_(h)
            else:
                torch.mm(mixture, trace.hidden[slot].view(depth + 1, -1), out=merged.view(1, -1))
            key_value.into(memory_norm(merged), made)
            places[end].copy_(made_view)
    y = trace.hidden[:, depth] if keep else outputs
    return y.transpose(0, 1).clone(memory_format=torch.contiguous_format), line, trace


class _Maps:
    """A layer's parameters as the loop forward reads them."""

    def __init__(self, layer: LayerWeights, *, rows: int, steps: int):
        self.norm = Norm(layer.norm_weight, layer.norm_bias)
        self.inner_norm = Norm(layer.inner_norm_weight, layer.inner_norm_bias)
        self.query = Product(layer.query, rows=rows, steps=steps)
        self.output = Product(*with_gain(layer.output_gain, layer.output, layer.output_bias), rows=rows, steps=steps)
        self.expand = Product(layer.expand, layer.expand_bias, rows=rows, steps=steps)
        self.contract = Product(*with_gain(layer.contract_gain, layer.contract, layer.contract_bias), rows=rows, steps=steps)


def _hide(bias: Tensor, empty: Tensor, begin: int, end: int, rows: int) -> tuple[Tensor, Tensor]:
    """The bias (B H, 1, S) of a window where rows lack the places before ``empty`` (B,), and (B, 1) which rows see anything."""
    missing = torch.arange(begin, end, device=empty.device) < empty[:, None]
    per_head = missing.repeat_interleave(rows // empty.shape[0], dim=0)[:, None]
    return torch.where(per_head, HIDDEN, bias), ~missing.all(dim=1, keepdim=True)


def feedback_recurrence_reference(
    x: Tensor,
    before: Tensor | None,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: list[LayerWeights],
    *,
    heads: int,
    window: int,
    detach_every: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, for autograd: a list of memories that grows, and what a token sees of it."""
    batch, width = x.shape[0], layers[0].query.shape[0] // heads
    groups = memory.key_value.shape[0] // (2 * heads * width)
    line = [] if before is None else list(before.unbind(1))  # of (B, G, 2, H, K)
    lead, bias = len(line), x.new_zeros(heads, window) if memory.bias is None else memory.bias
    outputs, cut = [], 0
    for token, h in enumerate(x.unbind(1)):
        if detach_every and token and token % detach_every == 0:
            cut = lead + token
        begin = max(lead + token - window, 0)
        seen = [entry.detach() if begin + place < cut else entry for place, entry in enumerate(line[begin:])]
        hidden = [h]
        known = torch.stack(seen, dim=4).unbind(1) if seen else ()  # of (B, 2, H, S, K)
        for index, layer in enumerate(layers):
            if seen:
                queries = (Norm(layer.norm_weight, layer.norm_bias)(h) @ layer.query.mT).view(batch, heads, 1, width)
                keys, values = known[index % groups].unbind(1)
                scores = queries @ keys.mT * width**-0.5 + bias[:, None, bias.shape[1] - len(seen) :]
                missing = torch.zeros(batch, len(seen), dtype=torch.bool, device=x.device)
                if empty is not None:
                    missing = torch.arange(begin, begin + len(seen), device=x.device) < empty[:, None]
                weights = scores.masked_fill(missing[:, None, None], HIDDEN).softmax(dim=-1)
                added = (weights @ values).flatten(1) @ layer.output.mT + layer.output_bias
                added = added if layer.output_gain is None else added * layer.output_gain
                h = h + added.masked_fill(missing.all(dim=1, keepdim=True), 0.0)
            inner = F.linear(Norm(layer.inner_norm_weight, layer.inner_norm_bias)(h), layer.expand, layer.expand_bias)
            if inner.shape[-1] > layer.contract.shape[1]:
                gate, value = inner.chunk(2, dim=-1)
                inner = F.gelu(gate) * value
            else:
                inner = F.gelu(inner)
            added = F.linear(inner, layer.contract, layer.contract_bias)
            h = h + (added if layer.contract_gain is None else added * layer.contract_gain)
            hidden.append(h)
        outputs.append(h)
        merged = h if memory.mixture is None else torch.einsum("l,lbd->bd", memory.mixture, torch.stack(hidden))
        made = Norm(memory.norm_weight, memory.norm_bias)(merged) @ memory.key_value.mT
        line.append(made.view(batch, groups, 2, heads, width))
    line = [entry.detach() if place < cut else entry for place, entry in enumerate(line)]
    return torch.stack(outputs, dim=1), torch.stack(line, dim=4).permute(2, 1, 0, 3, 4, 5)
