"""The backward pass of a feedback recurrence: input gradients token by token in reverse, then every weight's gradient in one product.

Axes as in `op.py`; R = B H rows of attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .memory_gradients import MemoryGradients
from .native import run_backward
from .products import Product
from .weights import LayerWeights, MemoryWeights, Norm, Shape, Trace, split_steps, with_gain


def backward(
    shape: Shape,
    line: Tensor,
    empty: Tensor | None,
    memory: MemoryWeights,
    layers: Sequence[LayerWeights],
    trace: Trace,
    d_y: Tensor | None,
    d_line: Tensor | None,
    *,
    wants: Sequence[bool],
    wants_before: bool,
    native: bool,
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """Gradients from those of the output (B, N, D) and of the line (2, G, B, H, T, K). ``native``: by the C kernels, as forward.

    Returns:
        Of x (B, N, D), of the memories before (B, M, G, 2, H, K), and of the parameters, flat; those not in ``wants`` may be None.
    """
    length, _, batch, wide = trace.queries.shape
    loop = _Loop(shape, line, empty, memory, layers, trace, d_line)
    d_y = None if d_y is None else d_y.transpose(0, 1).contiguous()
    if native:
        loop.run_native(line, empty, d_y)
    else:
        loop.run(line, empty, d_y)

    scale = (wide // shape.heads) ** -0.5
    start = 0 if trace.weights[0].shape[-1] else 1  # a first token without memories did not ask
    queries = loop.d_queries[:, 0].reshape(length * batch, wide)
    d_normed = torch.mm(queries, layers[0].query * scale).view_as(trace.merged)
    d_x = loop.d_hidden[:, 0] + loop.norms[0].input_gradient(d_normed, loop.prepared[0][1])
    loop.d_normed[0] = d_normed

    flat = loop.memory_gradients() if any(wants[: len(memory)]) else [None] * len(memory)
    at = len(flat)
    for index, layer in enumerate(layers):
        flat += loop.layer_gradients(index, start, scale) if any(wants[at : at + len(layer)]) else [None] * len(layer)
        at += len(layer)
    flat = [gradient if wanted else None for gradient, wanted in zip(flat, wants, strict=True)]
    d_before = loop.d_line[..., : shape.lead, :].permute(2, 4, 1, 0, 3, 5).contiguous() if wants_before else None
    return d_x.transpose(0, 1).contiguous(), d_before, flat


class _Loop:
    """Storage for the gradients of all tokens, and the step that fills it in for one."""

    def __init__(
        self,
        shape: Shape,
        line: Tensor,
        empty: Tensor | None,
        memory: MemoryWeights,
        layers: Sequence[LayerWeights],
        trace: Trace,
        d_line: Tensor | None,
    ):
        self.shape, self.memory, self.layers, self.trace = shape, memory, layers, trace
        length, depth, batch, wide = trace.queries.shape
        dim, rows, width = trace.merged.shape[-1], batch * shape.heads, wide // shape.heads
        self.length, self.depth, self.batch, self.rows = length, depth, batch, rows
        self.made = length if shape.stateful else length - 1  # tokens that left a memory
        self.scale = width**-0.5
        make, zeros = line.new_empty, line.new_zeros

        self.mixture = None if memory.mixture is None else memory.mixture.view(-1, 1)
        self.norms = [Norm(layer.norm_weight, layer.norm_bias) for layer in layers]
        self.inner_norms = [Norm(layer.inner_norm_weight, layer.inner_norm_bias) for layer in layers]
        self.memory_norm = Norm(memory.norm_weight, memory.norm_bias)
        self.prepared = [norm.prepare(trace.hidden[:, index]) for index, norm in enumerate(self.norms)]
        self.inner_prepared = [norm.prepare(trace.middle[index]) for index, norm in enumerate(self.inner_norms)]
        self.memory_prepared = self.memory_norm.prepare(trace.merged[: self.made])

        self.d_hidden = make(length, depth + 1, batch, dim)
        self.d_middle = make(depth, length, batch, dim)
        self.d_queries = make(length, depth, batch, wide)  # of scaled ones
        self.d_attended = make(length, depth, batch, wide)
        self.d_inner = make(depth, length, batch, dim)
        self.d_normed = [make(length, batch, dim) for _ in layers]
        self.d_expanded = [
            _activation_slopes(expanded, layer.contract.shape[1]) for expanded, layer in zip(trace.expanded, layers, strict=True)
        ]
        self.d_merged = make(self.made, batch, dim)
        self.d_memory = make(self.made, batch, dim)
        self.d_made = make(self.made, batch, memory.key_value.shape[0])
        self.d_line = torch.zeros_like(line) if d_line is None else d_line.clone(memory_format=torch.contiguous_format)
        self.d_line[..., : shape.cut(length - 1), :] = 0.0
        self.d_bias = None if memory.bias is None else zeros(rows, 1, memory.bias.shape[1])

    def run_native(self, line: Tensor, empty: Tensor | None, d_y: Tensor | None) -> None:
        """All tokens, the last one first, by the C kernels."""
        d_normed, d_expanded = torch.empty_like(self.d_middle), torch.stack(self.d_expanded)
        run_backward(
            self.shape, empty, self.memory, self.layers, self.trace, line, d_y,
            d_hidden=self.d_hidden, d_middle=self.d_middle, d_queries=self.d_queries, d_attended=self.d_attended, d_inner=self.d_inner,
            d_normed=d_normed, d_expanded=d_expanded, d_merged=self.d_merged, d_memory=self.d_memory, d_made=self.d_made,
            d_line=self.d_line, d_bias=self.d_bias,
        )  # fmt: skip
        self.d_normed, self.d_expanded = list(d_normed.unbind(0)), list(d_expanded.unbind(0))

    def run(self, line: Tensor, empty: Tensor | None, d_y: Tensor | None) -> None:
        """All tokens, the last one first."""
        self._prepare(line, empty)
        for token in reversed(range(self.length)):
            self.step(token, None if d_y is None else d_y[token])

    def _prepare(self, line: Tensor, empty: Tensor | None) -> None:
        """What :meth:`step` reads, laid out in the order in which it does."""
        trace, layers, memory, shape = self.trace, self.layers, self.memory, self.shape
        length, depth, rows, width = self.length, self.depth, self.rows, line.shape[-1]
        self.norm_steps = [split_steps(prepared, length) for _, prepared in self.prepared]
        self.inner_norm_steps = [split_steps(prepared, length) for _, prepared in self.inner_prepared]
        self.memory_norm_steps = split_steps(self.memory_prepared[1], self.made)

        self.queries = [self._back(layer.query * self.scale) for layer in layers]
        self.outputs = [self._back(with_gain(layer.output_gain, layer.output, layer.output_bias)[0]) for layer in layers]
        self.expands = [self._back(layer.expand) for layer in layers]
        self.contracts = [self._back(with_gain(layer.contract_gain, layer.contract, layer.contract_bias)[0]) for layer in layers]
        self.key_value = self._back(memory.key_value)

        self.keys, self.values = ([group.flatten(0, 1) for group in part.unbind(0)] for part in line.unbind(0))  # (R, T, K)
        self.d_places = self.d_line.unbind(-2)
        self.memories = MemoryGradients(shape, self.d_line, trace.queries, self.scale)

        self.views = {
            "hidden": [token.unbind(0) for token in self.d_hidden.unbind(0)],
            "queries": [token.unbind(0) for token in self.d_queries.unbind(0)],
            "attended": [token.unbind(0) for token in self.d_attended.unbind(0)],
            "asked": [token.unbind(0) for token in self.d_queries.view(length, depth, rows, 1, width).unbind(0)],
            "answered": [token.unbind(0) for token in self.d_attended.view(length, depth, rows, 1, width).unbind(0)],
            "middle": [layer.unbind(0) for layer in self.d_middle.unbind(0)],
            "inner": [layer.unbind(0) for layer in self.d_inner.unbind(0)],
            "normed": [layer.unbind(0) for layer in self.d_normed],
            "expanded": [layer.unbind(0) for layer in self.d_expanded],
            "slopes": [
                layer.unflatten(-1, (-1, weights.contract.shape[1])).unbind(0)
                for layer, weights in zip(self.d_expanded, layers, strict=True)
            ],
        }
        self.present = None
        if shape.hidden and empty is not None:  # rows where the first token saw anything
            self.present = (empty < shape.lead)[:, None].to(line.dtype)

    def _back(self, weight: Tensor) -> Product:
        """The product that takes a gradient back through the map ``weight``."""
        return Product(weight.mT, rows=self.batch, steps=self.length)

    def step(self, token: int, d_y: Tensor | None) -> None:
        """Gradients of one token, when those of all later ones are there."""
        shape, bmm = self.shape, torch.bmm
        hidden = self.views["hidden"][token]
        begin, end = shape.begin(token), shape.lead + token
        self.memories.reach(token)
        if token < self.made:
            d_made = self.d_made[token]
            d_made.view(self.batch, shape.groups, 2, shape.heads, -1).copy_(self.d_places[end].permute(2, 1, 0, 3, 4))
            d_normed = self.key_value.into(d_made, self.d_memory[token])
            d_merged = self.d_merged[token].copy_(self.memory_norm.input_gradient(d_normed, self.memory_norm_steps[token]))
            if self.mixture is None:
                self.d_hidden[token].zero_()
                hidden[-1].add_(d_merged)
            else:
                torch.mm(self.mixture, d_merged.view(1, -1), out=self.d_hidden[token].view(self.depth + 1, -1))
        else:
            self.d_hidden[token].zero_()
        if d_y is not None:
            hidden[-1].add_(d_y)

        known = self.trace.weights[token]
        seen = known.shape[-1]
        if seen:
            d_scores = torch.empty_like(known)
            key_views = [part[:, begin:end] for part in self.keys]
            value_views = [part[:, begin:end].mT for part in self.values]
            weights, slopes = known.unbind(0), d_scores.unbind(0)
        for index in reversed(range(self.depth)):
            self.views["slopes"][index][token].mul_(self.contracts[index](hidden[index + 1])[:, None])
            d_inner = self.expands[index].into(self.views["expanded"][index][token], self.views["inner"][index][token])
            d_middle = self.views["middle"][index][token]
            torch.add(hidden[index + 1], self.inner_norms[index].input_gradient(d_inner, self.inner_norm_steps[index][token]), out=d_middle)
            hidden[index].add_(d_middle)
            if not seen:
                continue
            if token == 0 and self.present is not None:
                d_middle.mul_(self.present)
            group = index % shape.groups
            self.outputs[index].into(d_middle, self.views["attended"][token][index])
            d_weights = bmm(self.views["answered"][token][index], value_views[group])
            torch._softmax_backward_data(d_weights, weights[index], -1, d_weights.dtype, grad_input=slopes[index])
            bmm(slopes[index], key_views[group], out=self.views["asked"][token][index])
            if index:
                d_normed = self.queries[index].into(self.views["queries"][token][index], self.views["normed"][index][token])
                hidden[index].add_(self.norms[index].input_gradient(d_normed, self.norm_steps[index][token]))
        if seen:
            self.memories.add(token, begin, known, d_scores, self.d_attended[token])
            if self.d_bias is not None:
                self.d_bias[..., self.d_bias.shape[-1] - seen :].add_(d_scores.sum(dim=0))
        else:
            self.d_queries[token].zero_()
        self.memories.leave(token)

    def memory_gradients(self) -> list[Tensor | None]:
        """Of what all layers share, in the order of :class:`MemoryWeights`."""
        d_mixture = d_bias = None
        if self.mixture is not None:
            d_mixture = torch.einsum("nlbd,nbd->l", self.trace.hidden[: self.made], self.d_merged)
        if self.d_bias is not None:
            d_bias = self.d_bias.view(self.batch, self.shape.heads, -1).sum(dim=0)
        norm = self.memory_norm.parameter_gradients(self.d_memory, self.trace.merged[: self.made])
        return [d_mixture, *norm, _weight_gradient(self.d_made, self.memory_prepared[0]), d_bias]

    def layer_gradients(self, index: int, start: int, scale: float) -> list[Tensor | None]:
        """Of one layer's parameters, in the order of :class:`LayerWeights`; tokens before ``start`` did not attend."""
        layer, trace, d_middle, d_out = self.layers[index], self.trace, self.d_middle[index], self.d_hidden[:, index + 1]
        normed, inner_normed = self.prepared[index][0], self.inner_prepared[index][0]
        output, output_bias, output_gain = _gained(
            _weight_gradient(d_middle[start:], trace.attended[start:, index]),
            _total(d_middle[start:]),
            layer.output,
            layer.output_bias,
            layer.output_gain,
        )
        contract, contract_bias, contract_gain = _gained(
            _weight_gradient(d_out, trace.active[index]), _total(d_out), layer.contract, layer.contract_bias, layer.contract_gain
        )
        return [
            *self.norms[index].parameter_gradients(self.d_normed[index][start:], trace.hidden[start:, index]),
            _weight_gradient(self.d_queries[start:, index], normed[start:]).mul_(scale),
            output,
            output_bias,
            output_gain,
            *self.inner_norms[index].parameter_gradients(self.d_inner[index], trace.middle[index]),
            _weight_gradient(self.d_expanded[index], inner_normed),
            _total(self.d_expanded[index]),
            contract,
            contract_bias,
            contract_gain,
        ]


def _activation_slopes(expanded: Tensor, inner: int) -> Tensor:
    """d active / d expanded, (N, B, F'): with a gate, active = gelu(first half) * second half."""
    if expanded.shape[-1] == inner:
        return torch.ops.aten.gelu_backward.default(torch.ones_like(expanded), expanded)
    gate, value = expanded[..., :inner], expanded[..., inner:]
    slopes = torch.empty_like(expanded)
    torch.ops.aten.gelu_backward.grad_input(value, gate, grad_input=slopes[..., :inner])
    torch.ops.aten.gelu.out(gate, out=slopes[..., inner:])
    return slopes


def _weight_gradient(gradient: Tensor, source: Tensor) -> Tensor:
    """Of a map from ``source`` (N, B, D) to what ``gradient`` (N, B, D') is of: (D', D)."""
    return torch.mm(gradient.flatten(0, 1).T, source.flatten(0, 1))


def _total(gradient: Tensor) -> Tensor:
    return gradient.flatten(0, 1).sum(dim=0)


def _gained(d_weight: Tensor, d_bias: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of weight, bias and gain from those of gain * weight and gain * bias."""
    if gain is None:
        return d_weight, d_bias, None
    d_gain = (d_weight * weight).sum() + (d_bias * bias).sum()
    return d_weight * gain, d_bias * gain, d_gain
