"""A feedback recurrence as it is defined, for autograd, compilers and every kind of derivative: slow, and with all that it makes.

Axes: B batch, N tokens, D width, L layers, G key-value maps, H heads, K head width, M memories, S keys of a window, T places of the line.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.numerics import HIDDEN
from .weights import LayerWeights, MemoryWeights, Norm


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
