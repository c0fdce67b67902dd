"""Attention to bfloat16 and float16 on a CPU is computed in float32, and given back in the dtype that came."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquadratic.attention.low_rank.op import causal_slot_attention
from subquadratic.attention.softmax.op import softmax_attention
from subquadratic.attention.softmax.window import window_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ALLOWED = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(1)) < 0.5
WEIGHTS = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(2)) / 6
OPS: dict[str, Attend] = {
    "softmax": softmax_attention,
    "causal": lambda q, k, v: softmax_attention(q, k, v, causal=True),
    "masked": lambda q, k, v: softmax_attention(q, k, v, allowed=ALLOWED),
    "blocks": lambda q, k, v: window_attention(q, k, v, window=8, causal=True),
    "sliding": lambda q, k, v: window_attention(q, k, v, window=8, causal=False, sliding=True),
    "slots": lambda q, k, v: causal_slot_attention(q, k, v, *WEIGHTS.to(q.dtype))[0],
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_it_is_that_of_float32(name: str, dtype: torch.dtype, autocast: bool) -> None:
    attend, given = OPS[name], [torch.randn(2, 3, 40, 16).to(dtype).requires_grad_() for _ in range(3)]
    wide = [x.detach().float().requires_grad_() for x in given]
    gradient = torch.randn(2, 3, 40, 16).to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        output = attend(*given)
        output.backward(gradient)
    assert output.dtype is dtype
    if name == "slots":
        weights = WEIGHTS.to(dtype).float()
        expected = causal_slot_attention(*wide, *weights)[0]
    else:
        expected = attend(*wide)
    expected.backward(gradient.float())
    assert torch.equal(output, expected.to(dtype))
    for ours, theirs in zip(given, wide, strict=True):
        assert ours.grad is not None and theirs.grad is not None and ours.grad.dtype is dtype
        assert torch.equal(ours.grad, theirs.grad.to(dtype))
