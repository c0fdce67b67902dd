"""The slot kernels against their definition, in float64."""

import itertools

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need triton: pip install 'subquadratic[triton]'")

from tests.attention.low_rank.case import Case, Shape, case, recurrence, run
from tests.checks import TOLERANCE, assert_close, compiled, with_gradients, with_second_derivatives

from subquadratic.attention.low_rank.op import causal_slot_attention_reference
from subquadratic.attention.low_rank.triton import _forward, causal_slot_attention

SMALL = Shape(1, 2, 2, 70, 24, 16, 16)
SHAPES = [
    (Shape(2, 2, 2, 1, 16, 8, 8), None),
    (Shape(2, 2, 1, 15, 40, 64, 64), None),
    (Shape(1, 2, 2, 64, 16, 8, 24), 1),
    (Shape(2, 1, 1, 100, 24, 16, 16), 2),
    (Shape(1, 1, 1, 20, 16, 72, 72), None),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("shape", "rows"), SHAPES)
def test_equals_the_recurrence(shape: Shape, rows: int | None, dtype: torch.dtype, device: torch.device) -> None:
    given = case(shape, dtype=dtype, device=device, rows=rows).with_leaves()
    exact = given.with_leaves(torch.float64)
    assert_close(with_gradients(run(given), given), with_gradients(recurrence(exact), exact), TOLERANCE[dtype])


def test_equals_the_definition(device: torch.device) -> None:
    given = case(Shape(2, 2, 1, 40, 70, 16, 8), dtype=torch.float32, device=device, empty=True).with_leaves()
    exact = given.with_leaves(torch.float64)
    expected = causal_slot_attention_reference(*exact[:5])
    assert_close(with_gradients([run(given)[0]], given[:5]), with_gradients([expected], exact[:5]), TOLERANCE[torch.float32])


def test_pieces_equal_the_whole(device: torch.device) -> None:
    given = case(SMALL, dtype=torch.float32, device=device).with_leaves()
    whole = with_gradients(run(given), given)
    state, parts = list(given[5:]), []
    for a, b in ((0, 1), (1, 34), (34, 70)):
        piece = [tensor[:, :, a:b] for tensor in given[:3]] + [tensor[a:b] for tensor in given[3:5]]
        part, *state = causal_slot_attention(*piece, *state)
        parts.append(part)
    assert_close(with_gradients([torch.cat(parts, dim=2), *state], given), whole, 1e-5)


@pytest.mark.parametrize("borders", [[0, 33, 34, 34, 50], [0, 0, 16, 16]])
def test_packed_documents_equal_each_by_itself(borders: list[int], device: torch.device) -> None:
    count = len(borders) - 1
    along = case(SMALL._replace(length=borders[-1]), dtype=torch.float32, device=device, rows=1)
    states = case(SMALL._replace(batch=count, length=1), dtype=torch.float32, device=device)
    packed = Case(*along[:5], *states[5:]).with_leaves()
    found = run(packed, torch.tensor(borders, device=device))

    single = packed.with_leaves()
    results = []
    for i, (a, b) in enumerate(itertools.pairwise(borders)):
        piece = [tensor[:, :, a:b] for tensor in single[:3]] + [tensor[:, a:b] for tensor in single[3:5]]
        state = [tensor[i : i + 1] for tensor in single[5:]]
        results.append(run(Case(*piece, *state)) if b > a else (piece[2], *state))
    expected = (torch.cat([r[0] for r in results], dim=2), torch.cat([r[1] for r in results]), torch.cat([r[2] for r in results]))
    assert_close(with_gradients(found, packed), with_gradients(expected, single), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_future_changes_nothing(dtype: torch.dtype, device: torch.device) -> None:
    given = case(SMALL, dtype=dtype, device=device)
    border = 37
    later = (torch.arange(70, device=device) >= border)[:, None]
    mixed = Case(*(torch.where(later, tensor * -8, tensor) for tensor in given[:5]), *given[5:])
    before, after = run(given)[0], run(mixed)[0]
    assert torch.equal(before[:, :, :border], after[:, :, :border])
    assert not torch.equal(before[:, :, border:], after[:, :, border:])
    leaves = given.with_leaves()
    gradients = torch.autograd.grad(run(leaves)[0][:, :, :border].sum(), leaves[:5])
    assert all((x[..., border:, :] == 0).all() and (x[..., :border, :] != 0).any() for x in gradients)


def test_scores_of_any_size_stay_finite(device: torch.device) -> None:
    given = case(SMALL, dtype=torch.float16, device=device)
    given = Case(given.queries * 20, given.keys * 20, given.values * 20, *given[3:]).with_leaves()
    assert all(tensor.isfinite().all() for tensor in with_gradients(run(given), given))


def test_any_layout(device: torch.device) -> None:
    given = case(SMALL, dtype=torch.float32, device=device)
    odd = given._replace(
        keys=given.keys.transpose(-1, -2).contiguous().transpose(-1, -2), key_weights=given.key_weights[:, :1].expand(-1, 24)
    )
    for strange in (given, odd):
        assert_close(run(strange), run(Case(*(tensor.contiguous() for tensor in strange))), 0.0)


def test_compiles_whole(device: torch.device) -> None:
    given = case(SMALL._replace(length=12), dtype=torch.float32, device=device).with_leaves()

    def function(queries: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return causal_slot_attention(queries * 2, *rest)

    assert_close(*compiled(function, given), 1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_the_operator_is_registered_right(packed: bool, device: torch.device) -> None:
    given = case(SMALL._replace(length=12), dtype=torch.float32, device=device, rows=1)
    cu_seqlens = None
    if packed:
        states = case(SMALL._replace(batch=2, length=1), dtype=torch.float32, device=device)
        given, cu_seqlens = Case(*given[:5], *states[5:]), torch.tensor([0, 7, 12], device=device)
    torch.library.opcheck(_forward, (*given.with_leaves(), cu_seqlens))


def test_second_derivatives(device: torch.device) -> None:
    given = case(SMALL, dtype=torch.float32, device=device).with_leaves()
    exact = given.with_leaves(torch.float64)
    found = with_second_derivatives(run(given), given)
    assert_close(found, with_second_derivatives(recurrence(exact), exact), 1e-4)


def test_wrong_arguments_are_named(device: torch.device) -> None:
    given = case(SMALL._replace(length=3), dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match="key_slots must be"):
        run(given._replace(key_slots=given.key_slots[:, :, :5]))
    with pytest.raises(ValueError, match="key_weights must be"):
        run(given._replace(key_weights=given.key_weights[:2]))
    with pytest.raises(ValueError, match="at most 256 wide"):
        run(case(SMALL._replace(length=3, value_width=300), dtype=torch.float32, device=device))
    with pytest.raises(ValueError, match="1 or 2 heads"):
        run(case(SMALL._replace(length=3, shared=3), dtype=torch.float32, device=device))
    with pytest.raises(ValueError, match="float16"):
        run(given._replace(keys=given.keys.half()))
