"""Causal slots by the C kernels against the definition in float64, in pieces, and when they are taken."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from subquadratic.attention.low_rank import native
from subquadratic.attention.low_rank import op as ops
from subquadratic.attention.low_rank.formula import slots_by_formula
from subquadratic.attention.low_rank.native import NativeSlots
from subquadratic.attention.low_rank.op import SlotState, causal_slot_attention
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


def drawn(
    batch: int, heads: int, length: int, slots: int, width: int, value_width: int, *, each: bool = False, spread: float = 1.0
) -> list[Tensor]:
    """Queries, keys, values, E, F and the slots before."""
    rows = (batch, length, slots) if each else (length, slots)
    weights = [torch.randn(rows) * spread / length**0.5 for _ in range(2)]  # slots of the size of keys and values
    sizes = [(length, width), (length, width), (length, value_width), (slots, width), (slots, value_width)]
    queries, keys, values, *before = (torch.randn(batch, heads, *size) for size in sizes)
    return [queries, keys, values, *weights, *before]


def defined(*arguments: Tensor) -> tuple[Tensor, ...]:
    """Everything at once, by operations that autograd follows."""
    return slots_by_formula(arguments[:5], arguments[5], arguments[6], None, chunk=8)


def error(found: Tensor, true: Tensor) -> float:
    return float(((found.double() - true).square().mean() / true.square().mean().clamp_min(1e-30)).sqrt().detach())


def compare(arguments: list[Tensor], spread: float = 1.0) -> None:
    """Errors may be 2e-5 of the truth, more where logits are larger and so is their rounding, or some times those of PyTorch in float32."""
    torch.manual_seed(0)
    dtypes = torch.float32, torch.float32, torch.float64
    mine, usual, true = ([x.clone().to(dtype).requires_grad_() for x in arguments] for dtype in dtypes)
    results = NativeSlots.apply(*mine), defined(*usual), defined(*true)
    towards = [torch.randn_like(x) for x in results[0]]
    gradients = [torch.autograd.grad(y, x, [g.to(y[0].dtype) for g in towards]) for y, x in zip(results, (mine, usual, true), strict=True)]
    names = ["y", "keys after", "values after", "queries", "keys", "values", "E", "F", "keys before", "values before"]
    for name, found, theirs, right in zip(names, *([*y, *more] for y, more in zip(results, gradients, strict=True)), strict=True):
        assert found.shape == right.shape and error(found, right) < max(2e-5 * max(spread, 1), 10 * error(theirs, right)), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 2), heads=st.integers(1, 3), length=st.one_of(st.integers(1, 200), st.sampled_from([512, 513, 1100])),
    slots=st.sampled_from([1, 3, 16, 33, 64, 100]), width=st.sampled_from([1, 2, 8, 17, 32, 64]),
    value_width=st.sampled_from([1, 5, 16, 30, 64, 70]), each=st.booleans(), spread=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_values_and_gradients_equal_the_definition(
    lanes: None, batch: int, heads: int, length: int, slots: int, width: int, value_width: int, each: bool, spread: float, seed: int
) -> None:
    torch.manual_seed(seed)
    compare(drawn(batch, heads, length, slots, width, value_width, each=each, spread=spread), spread)


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
@pytest.mark.parametrize("each", [True, False])
def test_any_number_of_threads(each: bool, threads: int) -> None:
    torch.manual_seed(0)
    compare(drawn(2, 2, 600, 24, 16, 12, each=each))


def test_the_oracle_agrees() -> None:
    torch.manual_seed(0)
    queries, keys, values, *weights = drawn(1, 2, 90, 12, 8, 8)[:5]
    empty = torch.zeros(1, 2, 12, 8)
    found, _, _ = NativeSlots.apply(queries, keys, values, *weights, empty, empty)
    assert error(found, ops.causal_slot_attention_reference(*(x.double() for x in (queries, keys, values, *weights)))) < 1e-5


def test_in_pieces() -> None:
    torch.manual_seed(0)
    *inputs, key_slots, value_slots = drawn(2, 2, 700, 20, 16, 16)
    whole, last_keys, last_values = NativeSlots.apply(*inputs, key_slots, value_slots)
    pieces, state = [], SlotState(key_slots, value_slots)
    for start, stop in ((0, 1), (1, 70), (70, 583), (583, 700)):
        piece, state = causal_slot_attention(*(x[..., start:stop, :] for x in inputs), state)
        pieces.append(piece)
    for found, right in ((torch.cat(pieces, dim=2), whole), (state.keys, last_keys), (state.values, last_values)):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-5)


def test_what_comes_later_reaches_nothing(lanes: None) -> None:
    torch.manual_seed(0)
    *inputs, key_slots, value_slots = drawn(1, 2, 300, 20, 16, 16)
    other = [torch.cat((x[..., :143, :], 100 * torch.randn_like(x[..., 143:, :])), dim=-2) for x in inputs]
    a, b = (NativeSlots.apply(*x, key_slots, value_slots)[0] for x in (inputs, other))
    assert torch.equal(a[:, :, :143], b[:, :, :143]) and not torch.equal(a[:, :, 143:], b[:, :, 143:])


def test_gradients_of_the_state_alone_or_of_the_output_alone() -> None:
    torch.manual_seed(0)
    arguments = drawn(1, 2, 150, 12, 8, 8)
    for chosen in ([0], [1], [2], [1, 2]):
        leaves, true = ([x.to(dtype).requires_grad_() for x in arguments] for dtype in (torch.float32, torch.float64))
        found, right = (
            torch.autograd.grad(sum(f(*x)[i].square().sum() for i in chosen), x, allow_unused=True, materialize_grads=True)
            for f, x in ((NativeSlots.apply, leaves), (defined, true))
        )
        assert all(error(a, b) < 1e-5 for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_operators_are_well_formed(each: bool, keep: bool) -> None:
    checks = ("test_schema", "test_faketensor")
    queries, keys, values, *weights, key_slots, value_slots = drawn(2, 2, 70, 10, 6, 4, each=each)
    weights = [x if each else x[None] for x in weights]
    arguments = (queries, keys, values, *weights)
    torch.library.opcheck(torch.ops.subquadratic.slot_attention.default, (*arguments, key_slots, value_slots, keep), test_utils=checks)
    if keep:
        output, *after, kept = native.slot_attention(*arguments, key_slots, value_slots, True)
        torch.library.opcheck(
            torch.ops.subquadratic.slot_attention_backward.default, (torch.randn_like(output), *after, *arguments, kept), test_utils=checks
        )


def test_when_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    class Noted(NativeSlots):
        @staticmethod
        def forward(ctx: object, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            taken.append(inputs[0].shape[2])
            return NativeSlots.forward(ctx, *inputs)

    monkeypatch.setattr(ops, "NativeSlots", Noted)
    queries, keys, values, *weights = drawn(1, 2, 64, 10, 8, 8)[:5]
    causal_slot_attention(queries, keys, values, *weights)
    assert taken == [64]
    causal_slot_attention(queries, keys[:, :1], values[:, :1], *weights)  # one head of keys for all
    causal_slot_attention(*(x[..., :4, :] for x in (queries, keys, values, *weights)))
    causal_slot_attention(*(x.double() for x in (queries, keys, values, *weights)))
    causal_slot_attention(queries, keys, values, *weights, cu_seqlens=torch.tensor([0, 20, 64]))
    causal_slot_attention(queries, keys, values, *weights, dropout=0.1)
    with use_backend("torch"):
        causal_slot_attention(queries, keys, values, *weights)
    assert taken == [64]


def test_what_does_not_fit_goes_the_other_way() -> None:
    torch.manual_seed(0)
    *inputs, key_slots, value_slots = drawn(1, 2, 64, 10, 8, 8)
    queries, keys, values, key_weights, value_weights = inputs
    state = SlotState(key_slots, value_slots)
    right, _ = causal_slot_attention(*inputs, state)
    found, _ = causal_slot_attention(queries, keys, values, key_weights.double(), value_weights.double(), state)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError):
        causal_slot_attention(queries[..., :-1], keys, values, key_weights, value_weights)
    with pytest.raises(RuntimeError):
        causal_slot_attention(*inputs, SlotState(key_slots[:, :, :-1], value_slots))
    with pytest.raises(RuntimeError):
        causal_slot_attention(*inputs, SlotState(key_slots, value_slots[..., :-1]))
