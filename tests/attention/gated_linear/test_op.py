"""Gated linear attention against its definition: any decay, any cut, every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.gated_linear.formula import gated_linear_reference
from subquadratic.attention.gated_linear.op import FadingState, gated_linear_attention

K, V = 6, 5


def draw(*, batch: int = 2, length: int = 70, channels: int = K, steep: float = 4.0, seed: int = 0) -> list[Tensor]:
    """Queries, keys, values, log decays and a sum before, in float64. ``steep``: many decays near one, a few that forget everything."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, 3, *shape, generator=generator, dtype=torch.float64)

    decay = -torch.rand(batch, 3, length, channels, generator=generator, dtype=torch.float64) ** steep * 30
    return [normal(length, K), normal(length, K), normal(length, V), decay, normal(K, V)]


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 150), channels=st.sampled_from([1, K]), chunk=st.sampled_from([1, 2, 16, 64]), masked=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_definition_and_its_gradients(length: int, channels: int, chunk: int, masked: bool, seed: int) -> None:
    inputs = [x.requires_grad_() for x in draw(length=length, channels=channels, seed=seed)]
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) > 0.3 if masked else None
    output, after = gated_linear_attention(*inputs[:4], mask, FadingState(inputs[4]), chunk=chunk)
    expected, total = gated_linear_reference(*inputs[:4], mask, inputs[4])
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if mask is not None:
        weights = weights * mask[:, None, :, None]
    assert torch.allclose(output * (weights != 0), expected * (weights != 0), atol=1e-10)
    assert torch.allclose(after.total, total, atol=1e-10)
    found = torch.autograd.grad((output * weights).sum() + after.total.square().sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum() + total.square().sum(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    """At the end: not by scaling queries by 1 / sqrt(6) either."""
    inputs = [x.to(dtype) for x in draw()[:4]]
    output, _ = gated_linear_attention(*inputs)
    assert torch.equal(output, gated_linear_attention(*(x.float() for x in inputs))[0].to(dtype))


@pytest.mark.parametrize("channels", [1, K])
def test_blocks_are_one_sequence(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [x.requires_grad_() for x in draw(length=100, channels=channels)]

    def run() -> list[Tensor]:
        output, after = gated_linear_attention(*inputs[:4], None, FadingState(inputs[4]), chunk=8)
        return [output, *torch.autograd.grad(output.square().sum() + after.total.sum(), inputs)]

    whole = run()
    monkeypatch.setattr("subquadratic.attention.gated_linear.op.BLOCK_NUMBERS", {"cpu": 1})
    for ours, theirs in zip(run(), whole, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("channels", [1, K])
def test_second_derivatives(channels: int) -> None:
    inputs = [x.requires_grad_() for x in draw(batch=1, length=9, channels=channels, steep=1.0)]
    inputs[3] = (inputs[3].detach() / 10).requires_grad_()

    def run(*x: Tensor) -> Tensor:
        output, after = gated_linear_attention(*x[:4], None, FadingState(x[4]), chunk=4)
        return output.sum() + after.total.square().sum()

    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("channels", [1, K])
def test_forgetting_everything_at_once_overflows_nothing(channels: int) -> None:
    """exp(-g) of a chunk that forgets e^-5000 is beyond float32, and so is the sum of the two in a wrong order."""
    inputs = [x.float() for x in draw(length=64, channels=channels)]
    inputs[3] = torch.full_like(inputs[3], -80.0)
    inputs = [x.requires_grad_() for x in inputs]
    output, _ = gated_linear_attention(*inputs[:4], None, FadingState(inputs[4]))
    alone = (inputs[0] * inputs[1]).sum(-1, keepdim=True) * inputs[2] * K**-0.5  # nothing but itself
    assert torch.allclose(output[:, :, 1:], alone[:, :, 1:], atol=1e-5)
    assert all(torch.isfinite(x).all() for x in torch.autograd.grad(output.sum(), inputs))


def test_a_decay_of_one_is_linear_attention() -> None:
    queries, keys, values, decay, _ = draw(length=50)
    output, _ = gated_linear_attention(queries, keys, values, torch.zeros_like(decay))
    assert torch.allclose(output, (queries @ keys.mT).tril() @ values * K**-0.5)


def test_documents_do_not_see_each_other() -> None:
    inputs = draw(batch=1, length=60)
    bounds = torch.tensor([0, 7, 7, 41, 60])
    output, after = gated_linear_attention(*inputs[:4], cu_seqlens=bounds)
    for row, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        expected, total = gated_linear_reference(*(x[:, :, start:stop] for x in inputs[:4])) if stop > start else (None, None)
        if expected is None:
            assert not after.total[row].any()
        else:
            assert torch.allclose(output[:, :, start:stop], expected)
            assert torch.allclose(after.total[row], total[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": (2, 3, 9, K + 1)}, "keys must be of the shape of queries"),
        ({"values": (2, 3, 8, V)}, "values must be"),
        ({"log_decay": (2, 3, 9, 2)}, "log_decay must be"),
        ({"mask": (2, 8)}, "mask must be"),
        ({"chunk": 12}, "chunk must be a power of two, got 12"),
        ({"chunk": 0}, "chunk must be an integer of at least 1"),
        ({"backend": "native"}, None),
    ],
)
def test_what_does_not_fit_is_told(change: dict[str, object], message: str | None) -> None:
    shapes = {"queries": (2, 3, 9, K), "keys": (2, 3, 9, K), "values": (2, 3, 9, V), "log_decay": (2, 3, 9, K)}
    options = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for name, value in change.items():
        options[name] = torch.ones(value, dtype=torch.bool if name == "mask" else torch.float32) if isinstance(value, tuple) else value  # type: ignore[assignment, arg-type]
    if message is None:  # as every op without a kernel: PyTorch computes
        gated_linear_attention(**options)  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(**options)  # type: ignore[arg-type]
