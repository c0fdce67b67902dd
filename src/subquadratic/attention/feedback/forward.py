"""The forward pass of a feedback recurrence: token after token through all layers, written into storage made before the loop.

Axes as in `op.py`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.numerics import HIDDEN
from .native import run_forward
from .products import Product
from .weights import LayerWeights, MemoryWeights, Norm, Shape, Trace, with_gain


def forward(
    shape: Shape,
    x: Tensor,
    before: Tensor | None,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: list[LayerWeights],
    *,
    keep: bool,
    native: bool,
) -> tuple[Tensor, Tensor, Trace]:
    """The loop forward: the output (B, N, D), the line and the trace. With ``keep`` False the trace has room for one token, and is of no
    use afterwards. ``native``: by the C kernels."""
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
    if native:
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
