"""Errors of the C kernels beside those of PyTorch's operators in float32, against float64, at small and at large numbers."""

import functools
from collections.abc import Callable

import pytest
import torch
from tests.kernels.builds import in_parts
from torch import Tensor
from torch.nn import functional as F

from subquadratic.attention.additive import native_mean
from subquadratic.attention.additive.op import running_softmax_mean
from subquadratic.attention.favor.features import orthogonal_gaussian
from subquadratic.attention.favor.op import causal_favor, read_favor, summarise_favor
from subquadratic.attention.low_rank.op import causal_slot_attention
from subquadratic.attention.softmax.op import softmax_attention
from subquadratic.core.backend import computed_by, use_backend
from subquadratic.kernels.native import library
from subquadratic.layers.feed_forward import native as feed_forward_native
from subquadratic.layers.norms import native as add_norm_native

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))

N, K = 200, 64
Op = Callable[..., Tensor]
AT_MOST = 3.0  # times PyTorch's error, over all draws together
DRAWS = 6


def favor(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return read_favor(q, summarise_favor(k, v, w), w)


def favor_steps(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    state, outputs = None, []
    with torch.no_grad():
        for at in range(24):
            y, state = causal_favor(*(x[..., at : at + 1, :] for x in (q, k, v)), w, state)
            outputs.append(y)
    return torch.cat(outputs, dim=-2) + 0 * q.sum()


def feed_forward(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    x, expand, contract = q.flatten(0, 2), k[0, 0], v[0, 0].mT
    given = x, expand / K, expand[:, 0], contract, contract[:, 0]
    native = x.dtype is torch.float32 and feed_forward_native.can_be_taken(x, given[1:])
    return feed_forward_native.NativeFeedForward.apply(*given) if native else feed_forward_native.feed_forward_by_formula(*given)


def add_norm(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    given = q, k, v[0, 0, 0], v[0, 0, 1], 1e-5
    if add_norm_native.suits(*given[:4]):
        return add_norm_native.NativeAddNorm.apply(*given)[1]
    return F.layer_norm(q + k, (K,), *given[2:])


def mean(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    given = q, None, k[0, 0, :2].repeat(1, 2) / K
    if computed_by(None, q, native=native_mean.fits(q, None, given[2])) == "native":
        return native_mean.NativeMean.apply(*given, None, False, 1.0, False)[0]
    return native_mean.turned_mean_by_formula(*given, None, False, 1.0, False)[0]


OPS: dict[str, Op] = {
    "FAVOR+": favor,
    "FAVOR+, causal": lambda q, k, v, w: causal_favor(q, k, v, w)[0],
    "FAVOR+, token by token": favor_steps,
    "softmax": lambda q, k, v, w: softmax_attention(q, k, v),
    "softmax, causal": lambda q, k, v, w: softmax_attention(q, k, v, causal=True),
    "slots": lambda q, k, v, w: causal_slot_attention(q, k, v, w[:N, :16], w[:N, 16:32])[0],
    "running mean": lambda q, k, v, w: running_softmax_mean(q[..., 0], v)[0],
    "mean": mean,
    "feed-forward": feed_forward,
    "norm": add_norm,
}


def found(op: Op, given: list[Tensor], w: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of the first two inputs and of the third."""
    inputs = [x.to(dtype).requires_grad_() for x in given]
    y = op(*inputs, w.to(dtype))
    towards = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).sin().view(y.shape).to(dtype)
    gradients = torch.autograd.grad((y * towards).sum(), inputs, allow_unused=True)
    return [y.detach(), *(x for x in gradients if x is not None)]


def drawn(std: float, seed: int) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, 1, 2, N, K)
    return [q * std, k * std, v], orthogonal_gaussian(256, K)


@functools.lru_cache(maxsize=DRAWS)
def by_pytorch(name: str, std: float, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """In float64 and in float32: the same for all kinds of lanes, which are tried one after another."""
    with use_backend("torch"):
        truth, usual = (found(OPS[name], *drawn(std, seed), dtype) for dtype in (torch.float64, torch.float32))
    return truth, usual


@pytest.mark.parametrize("lanes", ["installed", *in_parts()], indirect=True)
@pytest.mark.parametrize("std", [0.1, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("name", OPS)
def test_errors_are_like_those_of_pytorch(name: str, std: float, lanes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(add_norm_native, "FEWEST_NUMBERS", 1)
    monkeypatch.setattr(feed_forward_native, "FEWEST_ROWS", 1)
    errors = torch.zeros(4, 2, dtype=torch.float64)  # of each result: the squared errors of the kernels, and of PyTorch, relative
    for seed in range(DRAWS):
        truth, usual = by_pytorch(name, std, seed)
        by_kernels = found(OPS[name], *drawn(std, seed), torch.float32)
        for at, (kernels, torch_, true) in enumerate(zip(by_kernels, usual, truth, strict=True)):
            scale = true.square().mean().clamp_min(1e-30)
            errors[at] += torch.stack([(x.double() - true).square().mean() / scale for x in (kernels, torch_)])
    ratios = (errors[:, 0].sqrt() / errors[:, 1].sqrt().clamp_min(1e-7)).tolist()
    assert max(ratios) <= AT_MOST, ratios
