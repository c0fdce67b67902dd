"""The linear attention kernels against their recurrence, in float64."""

import itertools

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need triton: pip install 'subquadratic[triton]'")

from tests.attention.favor.case import Case, case, documents, recurrence, run
from tests.checks import TOLERANCE, assert_close, compiled, with_gradients, with_second_derivatives

from subquadratic.attention.favor.formula import linear_attention_reference
from subquadratic.attention.favor.triton import _forward, gated_linear_attention

SHAPES = [(2, 2, 1, 16, 8), (1, 3, 15, 40, 64), (2, 1, 64, 16, 64), (1, 2, 100, 40, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 100, 266, 64)])
def test_equals_the_recurrence(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    given = case(*shape, dtype=dtype, device=device).with_leaves()
    exact = given.with_leaves(torch.float64)
    found = with_gradients(run(given), given.differentiable())
    assert_close(found, with_gradients(recurrence(exact), exact.differentiable()), TOLERANCE[dtype])


def test_equals_the_definition(device: torch.device) -> None:
    given = case(2, 2, 50, 24, 16, dtype=torch.float32, device=device, empty=True).with_leaves()
    exact = given.with_leaves(torch.float64)
    expected = linear_attention_reference(exact.queries.log(), exact.keys.log() + exact.maximum[..., None], exact.values, causal=True)
    inputs, leaves = given.differentiable()[:3], exact.differentiable()[:3]
    assert_close(with_gradients([run(given)[0]], inputs), with_gradients([expected], leaves), TOLERANCE[torch.float32])


def test_a_rising_maximum_neither_overflows_nor_loses_the_present(device: torch.device) -> None:
    given = case(1, 2, 70, 16, 8, dtype=torch.float32, device=device, empty=True)
    rise = torch.linspace(-200, 200, 70, device=device).expand(1, 2, 70)
    given = given._replace(maximum=rise.contiguous()).with_leaves()
    exact = given.with_leaves(torch.float64)
    assert_close(
        with_gradients(run(given), given.differentiable()),
        with_gradients(recurrence(exact), exact.differentiable()),
        TOLERANCE[torch.float32],
    )


def test_pieces_equal_the_whole(device: torch.device) -> None:
    given = case(1, 2, 70, 24, 16, dtype=torch.float32, device=device).with_leaves()
    whole = with_gradients(run(given), given.differentiable())
    state, start, parts = (given.total, given.weight), given.start, []
    for a, b in ((0, 1), (1, 34), (34, 70)):
        part, *state = run(Case(*(tensor[:, :, a:b] for tensor in given[:4]), *state, start))
        start = given.maximum[:, :, b - 1 : b]
        parts.append(part)
    assert_close(with_gradients([torch.cat(parts, dim=2), *state], given.differentiable()), whole, 1e-5)


@pytest.mark.parametrize("borders", [[0, 40, 41, 41, 90], [0, 0, 16, 16], [0, 70]])
def test_packed_documents_equal_each_by_itself(borders: list[int], device: torch.device) -> None:
    lengths = [b - a for a, b in itertools.pairwise(borders)]
    alone = [case(1, 2, max(length, 1), 24, 16, dtype=torch.float32, device=device) for length in lengths]
    along = [
        torch.cat([getattr(x, name)[:, :, :length] for x, length in zip(alone, lengths, strict=True)], dim=2)
        for name in ("queries", "keys", "values", "maximum")
    ]
    states = [torch.cat([getattr(x, name) for x in alone]) for name in ("total", "weight", "start")]
    packed = Case(*along, *states).with_leaves()
    assert packed.values.shape[2] == borders[-1] and packed.total.shape[0] == len(lengths)
    found = run(packed, torch.tensor(borders, device=device))

    single = packed.with_leaves()
    results = [(x.values, x.total, x.weight) if not x.values.shape[2] else run(x) for x in documents(single, borders)]
    expected = (torch.cat([r[0] for r in results], dim=2), torch.cat([r[1] for r in results]), torch.cat([r[2] for r in results]))
    assert_close(with_second_derivatives(found, packed.differentiable()), with_second_derivatives(expected, single.differentiable()), 1e-4)
    assert_close(with_gradients(found, packed.differentiable()), with_gradients(expected, single.differentiable()), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_future_changes_nothing(dtype: torch.dtype, device: torch.device) -> None:
    given = case(1, 2, 70, 24, 16, dtype=dtype, device=device)
    changed = case(1, 2, 70, 24, 16, dtype=dtype, device=device)
    border = 37
    mixed = given._replace(**{
        name: torch.cat((getattr(given, name)[:, :, :border], 8 * getattr(changed, name)[:, :, border:].abs()), dim=2)
        for name in ("queries", "keys", "values")
    }, maximum=torch.cat((given.maximum[:, :, :border], given.maximum[:, :, border:] + 5), dim=2))  # fmt: skip
    before, after = run(given)[0], run(mixed)[0]
    assert torch.equal(before[:, :, :border], after[:, :, :border])
    assert not torch.equal(before[:, :, border:], after[:, :, border:])
    leaves = given.with_leaves()
    gradients = torch.autograd.grad(run(leaves)[0][:, :, :border].sum(), (leaves.queries, leaves.keys, leaves.values))
    assert all((gradient[:, :, border:] == 0).all() and (gradient[:, :, :border] != 0).any() for gradient in gradients)


def test_zero_where_no_key_came(device: torch.device) -> None:
    given = case(2, 2, 40, 16, 8, dtype=torch.float32, device=device, empty=True)
    hidden = torch.arange(40, device=device) < 19
    keys = given.keys.masked_fill(hidden[:, None], 0.0)
    keys[1] = 0.0  # a row of padding only
    maximum = given.maximum.masked_fill(hidden, -1e30)
    maximum[1] = -1e30
    leaves = given._replace(keys=keys, maximum=maximum).with_leaves()
    output, *state = run(leaves)
    assert (output[:, :, :19] == 0).all() and (output[1] == 0).all() and (output[0, :, 19:] != 0).any()
    gradients = torch.autograd.grad([output, *state], leaves.differentiable(), [torch.ones_like(x) for x in (output, *state)])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][:, :, :19] == 0).all() and (gradients[0][1] == 0).all()


def test_float16_stays_finite_where_its_range_ends(device: torch.device) -> None:
    given = case(1, 1, 40, 16, 8, dtype=torch.float16, device=device)
    given = given._replace(queries=given.queries * 1e-4, total=given.total * 1e6, weight=given.weight * 1e-6).with_leaves()
    assert all(tensor.isfinite().all() for tensor in with_gradients(run(given), given.differentiable()))


def test_any_layout_and_only_the_gradients_asked_for(device: torch.device) -> None:
    given = case(2, 3, 20, 16, 8, dtype=torch.float32, device=device)
    plain = Case(*(tensor.contiguous() for tensor in given))
    odd = plain._replace(
        keys=plain.keys.transpose(-1, -2).contiguous().transpose(-1, -2), values=plain.values[..., :1].expand(-1, -1, -1, 8)
    )
    even = odd._replace(keys=odd.keys.contiguous(), values=odd.values.contiguous())
    assert_close(run(odd), run(even), 0.0)
    assert_close(run(given), run(plain), 0.0)
    values = plain.values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(run(plain._replace(values=values))[0].sum(), [values])
    assert gradient.isfinite().all()


def test_compiles_whole(device: torch.device) -> None:
    given = case(2, 2, 20, 16, 8, dtype=torch.float32, device=device).with_leaves()

    def function(queries: Tensor, keys: Tensor, values: Tensor, total: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return gated_linear_attention(queries * 2, keys, values, given.maximum, total, weight, given.start)

    assert_close(*compiled(function, given.differentiable()), 1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_the_operator_is_registered_right(packed: bool, device: torch.device) -> None:
    given = case(2, 2, 20, 16, 8, dtype=torch.float32, device=device)
    cu_seqlens = None
    if packed:
        given = Case(*(tensor[:1] for tensor in given[:4]), *given[4:])
        cu_seqlens = torch.tensor([0, 7, 20], device=device)
    torch.library.opcheck(_forward, (*given.with_leaves(), cu_seqlens))


def test_second_derivatives(device: torch.device) -> None:
    given = case(1, 2, 20, 16, 8, dtype=torch.float32, device=device).with_leaves()
    exact = given.with_leaves(torch.float64)
    found = with_second_derivatives(run(given), given.differentiable())
    assert_close(found, with_second_derivatives(recurrence(exact), exact.differentiable()), 1e-4)


def test_wrong_arguments_are_named(device: torch.device) -> None:
    given = case(2, 2, 5, 16, 8, dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match="weight must be"):
        run(given._replace(weight=given.weight[:1]))
    with pytest.raises(ValueError, match="float64"):
        run(Case(*(tensor.double() for tensor in given)))
    with pytest.raises(ValueError, match="batch of queries must be 1"):
        run(given, torch.tensor([0, 2, 5], device=device))
    with pytest.raises(ValueError, match="cu_seqlens must be int64"):
        run(Case(*(tensor[:1] for tensor in given)), torch.tensor([0.0, 5.0], device=device))
