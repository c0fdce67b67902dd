"""Softmax pooling, whole and running, against its definition."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.additive import running
from subquadratic.attention.additive.formula import running_softmax_mean_reference
from subquadratic.attention.additive.op import running_softmax_mean, softmax_mean
from subquadratic.attention.additive.state import PoolState


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few numbers to a block that even short sequences have several."""
    monkeypatch.setattr(running, "BLOCK_NUMBERS", 2 * 3 * 4 * 8)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 40), chunk=st.integers(1, 45), spread=st.sampled_from([0.1, 3.0, 300.0]), seed=st.integers(0, 10**6))
def test_equals_the_definition(length: int, chunk: int, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits, values = torch.randn(2, 3, length, dtype=torch.float64) * spread, torch.randn(2, 3, length, 4, dtype=torch.float64)
    mask = torch.rand(2, length) > 0.3
    output, _ = running_softmax_mean(logits, values, mask, chunk=chunk)
    expected = running_softmax_mean_reference(logits, values, mask)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    whole = softmax_mean(logits, values, mask)
    torch.testing.assert_close(whole[:, :, 0], expected[:, :, -1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.usefixtures("short_blocks")
def test_blocks_join(transposed: bool) -> None:
    for length in (7, 8, 9, 16, 17, 40):
        logits, values = torch.randn(2, 3, length, dtype=torch.float64) * 9, torch.randn(2, 3, length, 4, dtype=torch.float64)
        if transposed:
            values = values.transpose(1, 2).contiguous().transpose(1, 2)
        output, _ = running_softmax_mean(logits, values, chunk=4)
        torch.testing.assert_close(output, running_softmax_mean_reference(logits, values), rtol=1e-9, atol=1e-10)


def test_pieces_equal_the_whole() -> None:
    logits, values = torch.randn(2, 3, 23, dtype=torch.float64) * 9, torch.randn(2, 3, 23, 4, dtype=torch.float64)
    mask = torch.rand(2, 23) > 0.3
    mask[1, :5] = False
    for real in (None, mask):
        whole, last = running_softmax_mean(logits, values, real, chunk=8)
        state, parts = None, []
        for a, b in ((0, 1), (1, 3), (3, 17), (17, 22), (22, 23)):
            part, state = running_softmax_mean(
                logits[..., a:b], values[..., a:b, :], None if real is None else real[:, a:b], state, chunk=8
            )
            parts.append(part)
        torch.testing.assert_close(torch.cat(parts, dim=2), whole)
        for a, b in zip(state.tensors(), last.tensors(), strict=True):
            torch.testing.assert_close(a, b)


def test_one_token_needs_no_block() -> None:
    """A step takes a short path of its own, unless its gradient is needed."""
    logits, values = torch.randn(3, 2, 1), torch.randn(3, 2, 1, 4)
    _, before = running_softmax_mean(torch.randn(3, 2, 9), torch.randn(3, 2, 9, 4))
    for mask in (None, torch.tensor([[True], [False], [True]])):
        short = running_softmax_mean(logits, values, mask, before)
        long = running_softmax_mean(logits, values.clone().requires_grad_(), mask, before)
        for a, b in zip((short[0], *short[1].tensors()), (long[0], *long[1].tensors()), strict=True):
            torch.testing.assert_close(a, b.detach())


def test_an_immense_future_leaves_the_past_bit_exact() -> None:
    logits, values = torch.randn(1, 1, 20), torch.randn(1, 1, 20, 4)
    before, _ = running_softmax_mean(logits, values, chunk=8)
    logits[..., 11:], values[..., 11:, :] = 1e30, 1e30
    after, _ = running_softmax_mean(logits, values, chunk=8)
    assert torch.equal(before[:, :, :11], after[:, :, :11])


def test_padding_may_hold_anything() -> None:
    logits, values, mask = torch.randn(2, 2, 20), torch.randn(2, 2, 20, 4), torch.rand(2, 20) > 0.4
    mask[1] = False
    found = []
    for content in (0.0, torch.nan):
        inputs = [logits.masked_fill(~mask[:, None], content), values.masked_fill(~mask[:, None, :, None], content)]
        output, state = running_softmax_mean(*(tensor.requires_grad_() for tensor in inputs), mask, chunk=8)
        gradients = torch.autograd.grad(output.square().sum() + state.total.square().sum(), inputs)
        assert torch.equal(output[1], torch.zeros_like(output[1]))
        assert torch.equal(gradients[1][1], torch.zeros_like(gradients[1][1]))
        found.append((output, *state.tensors(), *gradients))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("short_blocks")
def test_gradients_are_the_slopes() -> None:
    """gradcheck; the state's maximum is a constant for autograd, so it is above all logits here."""
    logits, values = torch.randn(2, 2, 11, dtype=torch.float64), torch.randn(2, 2, 11, 3, dtype=torch.float64)
    mask = torch.rand(2, 11) > 0.3
    maximum = torch.full((2, 2, 1), 4.0, dtype=torch.float64)
    weight, total = torch.rand(2, 2, 1, dtype=torch.float64) + 0.5, torch.randn(2, 2, 3, dtype=torch.float64)
    inputs = tuple(tensor.requires_grad_() for tensor in (logits, values, weight, total))
    for real in (None, mask):

        def run(logits: Tensor, values: Tensor, weight: Tensor, total: Tensor, real: Tensor | None = real) -> tuple[Tensor, ...]:
            output, state = running_softmax_mean(logits, values, real, PoolState(maximum, weight, total), chunk=4)
            return output, state.weight, state.total

        assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("length", [1, 4, 13, 30])
@pytest.mark.parametrize("spread", [1.0, 50.0])
@pytest.mark.usefixtures("short_blocks")
def test_gradients_equal_the_definitions(length: int, spread: float) -> None:
    logits, values = torch.randn(1, 2, length, dtype=torch.float64) * spread, torch.randn(1, 2, length, 3, dtype=torch.float64)
    tensors = (logits.requires_grad_(), values.requires_grad_())
    expected = torch.autograd.grad(running_softmax_mean_reference(*tensors).square().sum(), tensors)
    cut = length // 2

    def in_pieces() -> Tensor:
        first, state = running_softmax_mean(logits[..., :cut], values[..., :cut, :], chunk=4)
        second, _ = running_softmax_mean(logits[..., cut:], values[..., cut:, :], state=state, chunk=4)
        return torch.cat((first, second), dim=2)

    for output in (running_softmax_mean(*tensors, chunk=4)[0], in_pieces()) if cut else (running_softmax_mean(*tensors, chunk=4)[0],):
        for a, b in zip(torch.autograd.grad(output.square().sum(), tensors), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_only_the_gradients_asked_for() -> None:
    logits, values = torch.randn(1, 2, 9, dtype=torch.float64), torch.randn(1, 2, 9, 3, dtype=torch.float64)
    _, state = running_softmax_mean(torch.randn(1, 2, 4, dtype=torch.float64), torch.randn(1, 2, 4, 3, dtype=torch.float64))

    def gradients(wanted: str) -> dict[str, Tensor | None]:
        tensors = {"logits": logits, "values": values, "total": state.total}
        tensors = {name: tensor.clone().requires_grad_(name in wanted) for name, tensor in tensors.items()}
        before = PoolState(state.maximum, state.weight, tensors["total"])
        running_softmax_mean(tensors["logits"], tensors["values"], state=before)[0].square().sum().backward()
        return {name: tensor.grad for name, tensor in tensors.items()}

    every = gradients("logits values total")
    for name in every:
        alone = gradients(name)
        assert torch.equal(alone.pop(name), every[name])
        assert set(alone.values()) == {None}


def test_float32_is_accurate_over_a_long_sequence() -> None:
    logits, values = torch.randn(1, 2, 1500) * 5, torch.randn(1, 2, 1500, 8) + 3
    ask = torch.randn(1, 2, 1500, 8)

    def run(dtype: torch.dtype, function: Callable[..., tuple[Tensor, object]]) -> list[Tensor]:
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (logits, values)]
        output, _ = function(*inputs)
        return [output, *torch.autograd.grad(output, inputs, ask.to(dtype))]

    def exact(logits: Tensor, values: Tensor) -> tuple[Tensor, None]:
        weights = logits[..., None, :].expand(-1, -1, 1500, -1).masked_fill(torch.ones(1500, 1500).triu(1).bool(), -torch.inf)
        return weights.softmax(dim=-1) @ values, None

    for found, expected in zip(run(torch.float32, running_softmax_mean), run(torch.float64, exact), strict=True):
        assert (found - expected).square().mean().sqrt() < 2e-6 * expected.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out(dtype: torch.dtype) -> None:
    inputs = [(torch.randn(1, 2, 50) * 20).to(dtype).requires_grad_(), (torch.randn(1, 2, 50, 8) * 20).to(dtype).requires_grad_()]
    output, state = running_softmax_mean(*inputs)
    assert output.dtype == dtype and {tensor.dtype for tensor in state.tensors()} == {torch.float32}
    output.float().mean().backward()
    for tensor in (output, *(tensor.grad for tensor in inputs)):
        assert tensor.dtype == dtype and tensor.isfinite().all()


@pytest.mark.usefixtures("short_blocks")
def test_packed_documents_are_as_each_by_itself() -> None:
    bounds = [0, 1, 1, 30, 41, 41]
    logits, values = torch.randn(1, 2, 41, dtype=torch.float64) * 5, torch.randn(1, 2, 41, 3, dtype=torch.float64)
    mask = torch.rand(1, 41) > 0.2
    _, start = running_softmax_mean(torch.randn(5, 2, 4, dtype=torch.float64), torch.randn(5, 2, 4, 3, dtype=torch.float64))
    inputs = [tensor.requires_grad_() for tensor in (logits, values, start.weight, start.total)]

    def each() -> tuple[Tensor, ...]:
        outputs, states = [], []
        for document in range(5):
            before = start.select([document])
            if bounds[document] == bounds[document + 1]:
                states.append(before)
                continue
            here = slice(bounds[document], bounds[document + 1])
            output, state = running_softmax_mean(logits[..., here], values[..., here, :], mask[:, here], before, chunk=4)
            outputs.append(output)
            states.append(state)
        return torch.cat(outputs, dim=2), *(torch.cat(rows) for rows in zip(*(state.tensors() for state in states), strict=True))

    packed, after = running_softmax_mean(logits, values, mask, start, cu_seqlens=torch.tensor(bounds), chunk=4)
    found, expected = (packed, *after.tensors()), each()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    ask = [torch.randn_like(tensor) for tensor in found]
    for a, b in zip(
        *(torch.autograd.grad(outputs[:1] + outputs[2:], inputs, ask[:1] + ask[2:]) for outputs in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(running_softmax_mean(logits, values, mask, start, cu_seqlens=torch.tensor(bounds), chunk=4)[0], packed)
    fresh, _ = running_softmax_mean(logits, values, cu_seqlens=torch.tensor(bounds))
    torch.testing.assert_close(fresh[:, :, 30:], running_softmax_mean_reference(logits[..., 30:], values[..., 30:, :]))


@pytest.mark.parametrize("length", [1, 40, 200])
def test_compiles_whole(length: int) -> None:
    torch._dynamo.reset()
    logits, values = torch.randn(2, 2, length) * 4, torch.randn(2, 2, length, 3)
    mask = torch.rand(2, length) > 0.3
    _, state = running_softmax_mean(torch.randn(2, 2, 4), torch.randn(2, 2, 4, 3))
    inputs = [tensor.requires_grad_() for tensor in (logits, values, state.weight, state.total)]

    def run(logits: Tensor, values: Tensor, weight: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        output, after = running_softmax_mean(logits, values, mask, PoolState(state.maximum, weight, total), chunk=8)
        return output, after.weight, after.total

    found, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(*inputs), run(*inputs)
    ask = [torch.randn_like(tensor) for tensor in found]
    gradients = [torch.autograd.grad(outputs, inputs, ask) for outputs in (found, expected)]
    for a, b in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_second_derivatives(packed: bool) -> None:
    rows, cu_seqlens = (3, torch.tensor([0, 3, 3, 7])) if packed else (1, None)
    logits, values = torch.randn(1, 1, 7, dtype=torch.float64), torch.randn(1, 1, 7, 2, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True, True, False]])
    with torch.no_grad():
        _, before = running_softmax_mean(*(torch.randn(rows, 1, 4, *more, dtype=torch.float64) for more in ((), (2,))))
    leaves = [x.requires_grad_() for x in (logits, values, before.weight, before.total)]

    def run(logits: Tensor, values: Tensor, weight: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        state = PoolState(before.maximum, weight, total)
        output, after = running_softmax_mean(logits, values, mask, state, cu_seqlens=cu_seqlens, chunk=2)
        return output, after.total / after.weight  # each by itself is relative to the maximum, a constant of this kind of derivative

    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_wrong_shapes_are_named() -> None:
    values = torch.randn(1, 2, 5, 3)
    with pytest.raises(ValueError, match=r"logits must be \(1, 2, 5\)"):
        running_softmax_mean(torch.randn(1, 2, 4), values)
    with pytest.raises(ValueError, match=r"mask must be \(batch, length\) = \(1, 5\), got \(1, 4\)"):
        running_softmax_mean(values[..., 0], values, torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="cu_seqlens must run from 0 to the length 5"):
        running_softmax_mean(values[..., 0], values, cu_seqlens=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1"):
        running_softmax_mean(values[..., 0], values, chunk=0)
