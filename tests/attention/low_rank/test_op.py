"""Causal Linformer attention against the naive loop over positions."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.low_rank import blocks as slot_blocks
from subquadratic.attention.low_rank.op import SlotState, causal_slot_attention, causal_slot_attention_reference


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few scores to a block that even short sequences have several, of two chunks of 4 at 2 rows, 2 heads and 3 slots."""
    monkeypatch.setattr(slot_blocks, "BLOCK_SCORES", 2 * 2 * 3 * 8)


def draw(*, length: int, batch: int = 2, one_head: bool = False, rows_of_their_own: bool = False, slots: int = 3) -> list[Tensor]:
    """Queries, keys, values, E and F with heads of 4 (values: 5), as they lie when heads are split off."""
    heads = 1 if one_head else 2
    tensors = [
        torch.randn(batch, length, count, width, dtype=torch.float64).transpose(1, 2) for count, width in ((2, 4), (heads, 4), (heads, 5))
    ]
    shape = (batch, length, slots) if rows_of_their_own else (length, slots)
    return [tensor.requires_grad_() for tensor in (*tensors, *torch.randn(2, *shape, dtype=torch.float64))]


def draw_state(batch: int, *, one_head: bool = False, slots: int = 3) -> SlotState:
    heads = 1 if one_head else 2
    return SlotState(
        torch.randn(batch, heads, slots, 4, dtype=torch.float64).requires_grad_(),
        torch.randn(batch, heads, slots, 5, dtype=torch.float64).requires_grad_(),
    )


def by_rows(function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """The reference, which takes the same E and F for all rows, for each row by itself."""
    if e.dim() == 2:
        return function(q, k, v, e, f)
    return torch.cat([function(q[i : i + 1], k[i : i + 1], v[i : i + 1], e[i], f[i]) for i in range(len(q))])


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 30), chunk=st.integers(1, 35), slots=st.integers(1, 6), one_head=st.booleans(), seed=st.integers(0, 10**6))
def test_equals_the_definition(length: int, chunk: int, slots: int, one_head: bool, seed: int) -> None:
    torch.manual_seed(seed)
    inputs = draw(length=length, one_head=one_head, slots=slots)
    with torch.no_grad():
        output, _ = causal_slot_attention(*inputs, chunk=chunk)
        torch.testing.assert_close(output, causal_slot_attention_reference(*inputs), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("one_head", [False, True])
@pytest.mark.parametrize("rows_of_their_own", [False, True])
@pytest.mark.usefixtures("short_blocks")
def test_gradients_equal_the_definitions(one_head: bool, rows_of_their_own: bool) -> None:
    for length in (1, 4, 8, 11, 22):
        inputs = draw(length=length, one_head=one_head, rows_of_their_own=rows_of_their_own)
        output, expected = causal_slot_attention(*inputs, chunk=4)[0], by_rows(causal_slot_attention_reference, *inputs)
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
        ask = torch.randn_like(output)
        for a, b in zip(torch.autograd.grad(output, inputs, ask), torch.autograd.grad(expected, inputs, ask), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("one_head", [False, True])
@pytest.mark.parametrize("rows_of_their_own", [False, True])
@pytest.mark.usefixtures("short_blocks")
def test_gradients_are_the_slopes(one_head: bool, rows_of_their_own: bool) -> None:
    inputs = draw(length=9, one_head=one_head, rows_of_their_own=rows_of_their_own)
    state = draw_state(2, one_head=one_head)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        output, after = causal_slot_attention(*tensors[:5], SlotState(*tensors[5:]), chunk=4)
        return output, after.keys, after.values

    assert torch.autograd.gradcheck(run, (*inputs, state.keys, state.values), fast_mode=rows_of_their_own)


@pytest.mark.parametrize("rows_of_their_own", [False, True])
def test_pieces_equal_the_whole(rows_of_their_own: bool) -> None:
    inputs = draw(length=22, rows_of_their_own=rows_of_their_own)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            whole, last = causal_slot_attention(*inputs, chunk=8)
            state, parts = None, []
            for a, b in ((0, 1), (1, 9), (9, 21), (21, 22)):
                part, state = causal_slot_attention(*(tensor[..., a:b, :] for tensor in inputs), state, chunk=8)
                parts.append(part)
            torch.testing.assert_close(torch.cat(parts, dim=2), whole)
            torch.testing.assert_close(state.tensors(), last.tensors())
    ask = torch.randn_like(whole)
    for a, b in zip(torch.autograd.grad(torch.cat(parts, dim=2), inputs, ask), torch.autograd.grad(whole, inputs, ask), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("short_blocks")
def test_an_immense_future_leaves_the_past_bit_exact() -> None:
    inputs = [tensor.detach().float() for tensor in draw(length=20)]
    before, _ = causal_slot_attention(*inputs, chunk=4)
    for tensor in inputs[:3]:
        tensor[..., 11:, :] = 1e9
    after, _ = causal_slot_attention(*inputs, chunk=4)
    assert torch.equal(before[:, :, :11], after[:, :, :11])
    assert not torch.equal(before[:, :, 11:], after[:, :, 11:])


@pytest.mark.usefixtures("short_blocks")
def test_only_the_gradients_asked_for() -> None:
    inputs = [*draw(length=13), *draw_state(2).tensors()]
    every = torch.autograd.grad(causal_slot_attention(*inputs[:5], SlotState(*inputs[5:]), chunk=4)[0].square().sum(), inputs)
    for index, expected in enumerate(every):
        alone = [tensor.detach().requires_grad_(place == index) for place, tensor in enumerate(inputs)]
        causal_slot_attention(*alone[:5], SlotState(*alone[5:]), chunk=4)[0].square().sum().backward()
        torch.testing.assert_close(alone[index].grad, expected)
        assert [tensor.grad is None for tensor in alone].count(False) == 1


@pytest.mark.usefixtures("short_blocks")
def test_gradients_of_the_state_alone() -> None:
    inputs = draw(length=13)
    _, state = causal_slot_attention(*inputs, chunk=4)
    found = torch.autograd.grad(state.keys.square().sum() + state.values.square().sum(), inputs, allow_unused=True)
    keys, values = (weights.mT @ tensor for tensor, weights in zip(inputs[1:3], inputs[3:], strict=True))
    expected = torch.autograd.grad(keys.square().sum() + values.square().sum(), inputs[1:])
    assert not found[0].any()
    for a, b in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(a, b)


def test_float32_is_accurate_over_a_long_sequence() -> None:
    inputs = [tensor.detach() for tensor in draw(length=700, slots=24)]
    ask, found = torch.randn(2, 2, 700, 5, dtype=torch.float64), []
    for dtype in (torch.float32, torch.float64):
        cast = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        output = causal_slot_attention(*cast)[0] if dtype == torch.float32 else causal_slot_attention_reference(*cast)
        found.append((output, *torch.autograd.grad(output, cast, ask.to(dtype))))
    for a, b in zip(*found, strict=True):
        assert (a - b).square().mean().sqrt() < 5e-6 * b.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out(dtype: torch.dtype) -> None:
    inputs = [tensor.detach().mul(4).to(dtype).requires_grad_() for tensor in draw(length=70)]
    output, state = causal_slot_attention(*inputs)
    assert output.dtype == dtype and state.keys.dtype == state.values.dtype == torch.float32
    output.float().mean().backward()
    for tensor in (output, *(tensor.grad for tensor in inputs)):
        assert tensor.dtype == dtype and tensor.isfinite().all()
    with torch.no_grad():
        assert causal_slot_attention(*(tensor[..., :1, :] for tensor in inputs))[0].dtype == dtype


@pytest.mark.parametrize("one_head", [False, True])
@pytest.mark.usefixtures("short_blocks")
def test_packed_documents_are_as_each_by_itself(one_head: bool) -> None:
    bounds = [0, 1, 1, 25, 34, 34]
    inputs, start = draw(length=34, batch=1, one_head=one_head), draw_state(5, one_head=one_head)
    leaves = [*inputs, *start.tensors()]

    def each() -> tuple[Tensor, ...]:
        outputs, states = [], []
        for document in range(5):
            here, state = slice(bounds[document], bounds[document + 1]), start.select([document])
            if here.start < here.stop:
                output, state = causal_slot_attention(*(tensor[..., here, :] for tensor in inputs), state, chunk=4)
                outputs.append(output)
            states.append(state)
        return torch.cat(outputs, dim=2), *(torch.cat(rows) for rows in zip(*(state.tensors() for state in states), strict=True))

    expected = each()
    ask = [torch.randn_like(tensor) for tensor in expected]
    slopes = torch.autograd.grad(expected, leaves, ask)
    for dropout in (0.0, 1e-12):  # the second goes through autograd
        output, after = causal_slot_attention(*inputs, start, cu_seqlens=torch.tensor(bounds), dropout=dropout, chunk=4)
        found = (output, *after.tensors())
        for a, b in zip((*found, *torch.autograd.grad(found, leaves, ask)), (*expected, *slopes), strict=True):
            torch.testing.assert_close(a, b)
    fresh, _ = causal_slot_attention(*inputs, cu_seqlens=torch.tensor(bounds))
    alone = causal_slot_attention_reference(*(tensor[..., 25:, :] for tensor in inputs))
    torch.testing.assert_close(fresh[:, :, 25:], alone)


def test_dropout_drops_weights_of_slots() -> None:
    inputs = draw(length=40, slots=6)
    dropped, _ = causal_slot_attention(*inputs, dropout=0.5)
    torch.manual_seed(0)
    mean = torch.stack([causal_slot_attention(*(tensor.detach() for tensor in inputs), dropout=0.5)[0] for _ in range(400)]).mean(dim=0)
    whole, _ = causal_slot_attention(*inputs)
    assert not torch.allclose(dropped, whole)
    assert (mean - whole).square().mean().sqrt() < 0.1 * whole.square().mean().sqrt()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(dropped.sum(), inputs))


@pytest.mark.parametrize("length", [1, 9])
def test_compiles_whole(length: int) -> None:
    torch._dynamo.reset()
    inputs = [*draw(length=length), *draw_state(2).tensors()]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        output, after = causal_slot_attention(*tensors[:5], SlotState(*tensors[5:]), chunk=4)
        return output, after.keys, after.values

    found, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(*inputs), run(*inputs)
    ask = [torch.randn_like(tensor) for tensor in found]
    gradients = [torch.autograd.grad(outputs, inputs, ask) for outputs in (found, expected)]
    for a, b in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("packed", [True, False])
def test_second_derivatives(packed: bool) -> None:
    batch, length, cu_seqlens = (1, 7, torch.tensor([0, 3, 3, 7])) if packed else (2, 5, None)
    sizes = [(batch, 2, length, 2)] * 3 + [(length, 3)] * 2 + [(3 if packed else batch, 2, 3, 2)] * 2
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        output, after = causal_slot_attention(*tensors[:5], SlotState(*tensors[5:]), cu_seqlens=cu_seqlens, chunk=4)
        return output, after.keys, after.values

    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_wrong_shapes_are_named() -> None:
    q, e = torch.randn(2, 2, 5, 4), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"key_weights and value_weights must be \(length, slots\) = \(5, R\)"):
        causal_slot_attention(q, q, q, e[:4], e[:4])
    with pytest.raises(ValueError, match=r"with a batch axis before, got \(3, 5, 3\)"):
        causal_slot_attention(q, q, q, e.expand(3, -1, -1), e.expand(3, -1, -1))
    with pytest.raises(ValueError, match=r"keys and values must be .* \(2, 2 or 1, 5, .\), got \(2, 2, 5, 4\) and \(2, 1, 5, 4\)"):
        causal_slot_attention(q, q, q[:, :1], e, e)
    with pytest.raises(ValueError, match="the batch must be 1, got 2"):
        causal_slot_attention(q, q, q, e, e, cu_seqlens=torch.tensor([0, 5]))
