"""Our operations and layers as sides of a case, and PyTorch's and flash-linear-attention's kernels beside the operations.

Axes: B batch, H heads, N length, D width, K head width, M features, R slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import attention
from ..attention.additive.op import running_softmax_mean
from ..attention.favor.features import orthogonal_gaussian, softmax_exponents
from ..attention.favor.op import causal_favor, read_favor, summarise_favor
from ..attention.gated_linear.op import gated_linear_attention
from ..attention.low_rank.op import causal_slot_attention
from ..attention.softmax.op import softmax_attention
from ..attention.softmax.window import window_attention
from .cases import BACK, WINDOWS, Case
from .checks import both_ways, causal, finite_gradients, streaming_model, within
from .work import CHECKED, NotAvailable, Setting, TooSlow, Work, bytes_of, bytes_read_by_a_token, training_step, without_gradients

Attend = Callable[..., tuple[Tensor, Any]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation on (queries, keys, values[, state]), each (B, H, N, K), and whether the future may reach the past."""

    run: Attend
    causal: bool


def build_op(name: str, case: Case, setting: Setting, shared: dict[str, Any]) -> Work:
    """An operation, or the kernel it is compared with.

    Raises:
        NotAvailable: a kernel that is not installed, or needs a GPU.
    """
    operation = _operation(name, case, setting)
    length = 1 if case.mode == "decode" else case.length
    q, k, v = (tensor.requires_grad_(case.mode == "train") for tensor in _normal(case, setting, length))

    def forward() -> Tensor:
        return operation.run(q, k, v)[0]

    def train() -> None:
        q.grad = k.grad = v.grad = None
        output = forward()
        output.backward(torch.ones_like(output))

    def check() -> str | None:
        return _check_operation(operation, case, setting)

    if case.mode == "train":
        return Work(call=train, tokens=case.batch * length, check=check)
    if case.mode == "forward":
        return Work(call=without_gradients(forward), tokens=case.batch * length, check=check)
    with torch.no_grad():
        _, state = operation.run(*_normal(case, setting, case.length))
    step = without_gradients(lambda: operation.run(q, k, v, state))
    return Work(call=step, tokens=case.batch, check=check, state_bytes=state.nbytes())


def build_layer(name: str, case: Case, setting: Setting, shared: dict[str, Any]) -> Work:
    """An attention layer, on (B, N, D).

    Raises:
        TooSlow: the context of a decoded token takes too long to read.
    """
    if name not in shared:
        torch.manual_seed(0)
        shared[name] = _layer(name, case).to(setting.device, setting.dtype)
    layer: Any = shared[name].train(case.mode == "train")
    x = _tokens(case, setting, case.length)
    both = case.sides[0].endswith(BACK)

    def check() -> str | None:
        part = _tokens(case, setting, min(CHECKED, case.length))
        if both:
            wrong = both_ways(layer, part, tolerance=setting.tolerance)
        else:
            wrong = streaming_model(layer, part, lambda x: 8 * x, tolerance=setting.tolerance)
        if wrong is None and case.mode == "train":
            training_step(layer, lambda: layer(part).square().mean())()
            wrong = finite_gradients(layer)
            layer.zero_grad(set_to_none=True)
        return wrong

    known: dict[str, Any] = {"check": check, "parameter_bytes": bytes_of(layer), "tokens": x.shape[0] * x.shape[1]}
    if case.mode == "train":
        return Work(call=training_step(layer, lambda: layer(x).square().mean()), **known)
    if case.mode == "forward":
        return Work(call=without_gradients(lambda: layer(x)), **known)
    if case.mode == "prefill":
        return Work(call=without_gradients(lambda: layer.extend(x, layer.init_state(case.batch))), **known)
    began = time.perf_counter()
    with torch.no_grad():
        _, state = layer.extend(x, layer.init_state(case.batch))
    if time.perf_counter() - began > case.cap:
        raise TooSlow(f"reading {case.length:,} tokens before the first took more than {case.cap:.0f} s")
    one = x[:, -1:]
    known |= {"tokens": case.batch, "parameter_bytes": bytes_read_by_a_token(layer)}
    return Work(call=without_gradients(lambda: layer.extend(one, state)), state_bytes=state.nbytes(), **known)


def _operation(name: str, case: Case, setting: Setting) -> Operation:
    sizes = case.sizes
    both = case.sides[0].endswith(BACK)
    if name in ("favor", f"favor{BACK}", "fla"):
        seeded = torch.Generator().manual_seed(0)
        projection = orthogonal_gaussian(sizes.features, sizes.width, generator=seeded).to(setting.device)
        if name == "favor":
            return Operation(run=lambda q, k, v, state=None: causal_favor(q, k, v, projection, state), causal=True)
        if name == "fla":
            return _flash_linear(projection, setting)
        return Operation(run=lambda q, k, v: (read_favor(q, summarise_favor(k, v, projection), projection), None), causal=False)
    if name == "gated-linear-attention":
        half = sizes.width // 2

        def fading(q: Tensor, k: Tensor, v: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            log_decay = F.logsigmoid(k[..., half : 2 * half]) / 16
            return gated_linear_attention(q[..., :half], k[..., :half], v, log_decay, None, state)

        return Operation(run=fading, causal=True)
    if name == "slot-attention":
        weights = torch.randn(2, case.length + 1, sizes.slots, generator=torch.Generator().manual_seed(0)).to(setting.device)
        weights *= case.length**-0.5

        def slots(q: Tensor, k: Tensor, v: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            start = 0 if state is None else case.length
            here = weights[:, start : start + q.shape[2]].to(q.dtype)
            return causal_slot_attention(q, k, v, here[0], here[1], state)

        return Operation(run=slots, causal=True)
    if name == "prefix-softmax":
        return Operation(run=lambda q, k, v, state=None: running_softmax_mean(q[..., 0] + k[..., 0], v, None, state), causal=True)
    if name in WINDOWS:
        return Operation(run=lambda q, k, v: (window_attention(q, k, v, window=WINDOWS[name], causal=True), None), causal=True)
    if name == "softmax-attention":
        return Operation(run=lambda q, k, v: (softmax_attention(q, k, v, causal=True), None), causal=True)
    assert name == "sdpa", name
    return Operation(run=lambda q, k, v: (F.scaled_dot_product_attention(q, k, v, is_causal=not both), None), causal=not both)


def _flash_linear(projection: Tensor, setting: Setting) -> Operation:
    """The same features through flash-linear-attention's gated kernel; a column of ones among the values gives the normaliser."""
    if not setting.device.startswith("cuda"):
        raise NotAvailable("flash-linear-attention needs a GPU")
    try:
        from fla.ops.simple_gla import chunk_simple_gla
    except ImportError as error:
        raise NotAvailable("flash-linear-attention is not installed") from error

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        (query, _), (key, _) = softmax_exponents(q.float(), projection), softmax_exponents(k.float(), projection)
        highest = key.amax(dim=-1).cummax(dim=-1).values.detach()  # (B, H, N)
        gate = F.pad(highest[..., :-1] - highest[..., 1:], (1, 0))
        query = (query - query.amax(dim=-1, keepdim=True).detach()).exp()
        key = (key - highest[..., None]).exp()
        values = torch.cat((v, torch.ones_like(v[..., :1])), dim=-1)
        by_length = [x.to(v.dtype).transpose(1, 2).contiguous() for x in (query, key, values)]
        mixed, _ = chunk_simple_gla(*by_length, g=gate.transpose(1, 2).contiguous(), scale=1.0)
        return (mixed[..., :-1] / mixed[..., -1:].clamp_min(1e-6)).transpose(1, 2), None

    return Operation(run=run, causal=True)


def _layer(name: str, case: Case) -> nn.Module:
    sizes, plain = case.sizes, name.removesuffix(BACK)
    common: dict[str, Any] = {"heads": sizes.heads, "causal": not case.sides[0].endswith(BACK)}
    if plain == "favor":
        return attention.FavorAttention(sizes.dim, **common, features=sizes.features, rotary=True)
    if plain == "low-rank":
        room = case.length + (1 if case.mode == "decode" else 0)
        return attention.LowRankAttention(sizes.dim, **common, max_length=room, slots=sizes.slots)
    if plain == "gated-linear":
        return attention.GatedLinearAttention(sizes.dim, heads=sizes.heads)
    if plain == "additive":
        return attention.AdditiveAttention(sizes.dim, **common, rotary=True)
    return attention.SoftmaxAttention(sizes.dim, **common, rotary=True)


def _check_operation(operation: Operation, case: Case, setting: Setting) -> str | None:
    """As in float64, with gradients free of NaN and infinity, and causal to the bit where it is causal."""
    length = min(CHECKED, case.length)
    inputs = [tensor.requires_grad_() for tensor in _normal(case, setting, length)]
    with torch.enable_grad():
        output = operation.run(*inputs)[0]
        gradients = torch.autograd.grad(output.float().sum(), inputs)
    if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        return "a gradient is NaN or infinite"
    with torch.no_grad():
        if setting.device == "cpu":  # kernels on a GPU may know no float64
            wanted = operation.run(*(tensor.double() for tensor in inputs))[0]
            wrong = within(output, wanted, tolerance=setting.tolerance, what="the output, from the one in float64")
            if wrong is not None:
                return wrong
        if not operation.causal:
            return None
        others = [_other_end(tensor.transpose(1, 2)).transpose(1, 2) for tensor in inputs]
        before, after = (operation.run(*tensors)[0].transpose(1, 2) for tensors in (inputs, others))
        return causal(before, after, length - length * 2 // 3)


def _other_end(x: Tensor) -> Tensor:
    """(B, N, ...) with its last third eight times as large."""
    changed = x.clone()
    changed[:, x.shape[1] * 2 // 3 :] *= 8
    return changed


def _normal(case: Case, setting: Setting, length: int) -> list[Tensor]:
    """Three of (B, H, N, K), lying in memory as the maps of a layer leave them."""
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch, length, case.sizes.heads, case.sizes.width)
    return [torch.randn(shape, generator=generator).to(setting.device, setting.dtype).transpose(1, 2).detach() for _ in range(3)]


def _tokens(case: Case, setting: Setting, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(case.batch, length, case.sizes.dim, generator=generator).to(setting.device, setting.dtype)
