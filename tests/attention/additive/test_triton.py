"""The running mean kernels against their recurrence, in float64."""

import itertools

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need triton: pip install 'subquadratic[triton]'")

from tests.attention.additive.case import Case, case, recurrence, run
from tests.checks import TOLERANCE, assert_close, compiled, with_gradients, with_second_derivatives

from subquadratic.attention.additive.formula import running_softmax_mean_reference
from subquadratic.attention.additive.triton import _forward, running_softmax_mean

SHAPES = [(2, 2, 1, 8), (1, 3, 15, 64), (2, 1, 64, 8), (1, 2, 100, 64), (1, 1, 100, 72)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_recurrence(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    given = case(*shape, dtype=dtype, device=device).with_leaves()
    exact = given.with_leaves(torch.float64)
    found = with_gradients(run(given), given.differentiable())
    assert_close(found, with_gradients(recurrence(exact), exact.differentiable()), TOLERANCE[dtype])
    assert torch.equal(running_softmax_mean(*given)[1], torch.maximum(given.logits.amax(-1, keepdim=True), given.maximum))


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_equals_the_definition(spread: float, device: torch.device) -> None:
    given = case(2, 2, 50, 16, dtype=torch.float32, device=device, empty=True)
    mask = torch.rand(2, 50, device=device) > 0.3
    mask[:, :3], mask[1] = False, False
    given = given._replace(logits=given.logits * spread)
    given = given._replace(logits=given.logits.masked_fill(~mask[:, None], -torch.inf)).with_leaves()
    exact = given.with_leaves(torch.float64)
    expected = running_softmax_mean_reference(exact.logits[:1], exact.values[:1], mask[:1])
    output = run(given)[0]
    assert (output[:, :, :3] == 0).all() and (output[1] == 0).all()
    first = 0 if spread == 1 else 1  # a weight of one leaves a logit no gradient but rounding
    found = with_gradients([output[:1]], given.differentiable()[first:2])
    wanted = with_gradients([expected], exact.differentiable()[first:2])
    wanted = [tensor.nan_to_num(0.0) for tensor in wanted]  # the definition's first rows divide by no weight
    assert_close(found, wanted, TOLERANCE[torch.float32])


def test_pieces_equal_the_whole(device: torch.device) -> None:
    given = case(1, 2, 70, 16, dtype=torch.float32, device=device).with_leaves()
    whole = with_gradients(run(given), given.differentiable())
    state, parts = list(given[2:]), []
    for a, b in ((0, 1), (1, 34), (34, 70)):
        part, *state = running_softmax_mean(given.logits[:, :, a:b], given.values[:, :, a:b], *state)
        parts.append(part)
    assert_close(with_gradients([torch.cat(parts, dim=2), *state[1:]], given.differentiable()), whole, 1e-5)


@pytest.mark.parametrize("borders", [[0, 40, 41, 41, 90], [0, 0, 16, 16], [0, 70]])
def test_packed_documents_equal_each_by_itself(borders: list[int], device: torch.device) -> None:
    count = len(borders) - 1
    along = case(1, 2, borders[-1], 16, dtype=torch.float32, device=device)
    states = case(count, 2, 1, 16, dtype=torch.float32, device=device)
    packed = Case(*along[:2], *states[2:]).with_leaves()
    found = run(packed, torch.tensor(borders, device=device))

    single = packed.with_leaves()
    results = []
    for i, (a, b) in enumerate(itertools.pairwise(borders)):
        alone = Case(single.logits[:, :, a:b], single.values[:, :, a:b], *(tensor[i : i + 1] for tensor in single[2:]))
        results.append(run(alone) if b > a else (alone.values, alone.weight, alone.total))
    expected = (torch.cat([r[0] for r in results], dim=2), torch.cat([r[1] for r in results]), torch.cat([r[2] for r in results]))
    assert_close(with_gradients(found, packed.differentiable()), with_gradients(expected, single.differentiable()), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_future_changes_nothing(dtype: torch.dtype, device: torch.device) -> None:
    given = case(1, 2, 70, 16, dtype=dtype, device=device)
    border = 37
    mixed = given._replace(
        logits=torch.cat((given.logits[:, :, :border], given.logits[:, :, border:] * 8 + 20), dim=2),
        values=torch.cat((given.values[:, :, :border], given.values[:, :, border:] * -8), dim=2),
    )
    before, after = run(given)[0], run(mixed)[0]
    assert torch.equal(before[:, :, :border], after[:, :, :border])
    assert not torch.equal(before[:, :, border:], after[:, :, border:])
    leaves = given.with_leaves()
    gradients = torch.autograd.grad(run(leaves)[0][:, :, :border].square().sum(), (leaves.logits, leaves.values))
    assert all((gradient[:, :, border:] == 0).all() and (gradient[:, :, :border] != 0).any() for gradient in gradients)


def test_any_layout(device: torch.device) -> None:
    given = case(2, 3, 20, 8, dtype=torch.float32, device=device)
    odd = given._replace(values=given.values[..., :1].expand(-1, -1, -1, 8))
    assert_close(run(given), run(Case(*(tensor.contiguous() for tensor in given))), 0.0)
    assert_close(run(odd), run(Case(*(tensor.contiguous() for tensor in odd))), 0.0)
    assert run(given._replace(logits=given.logits.half()))[0].dtype == torch.float32


def test_compiles_whole(device: torch.device) -> None:
    given = case(2, 2, 20, 8, dtype=torch.float32, device=device).with_leaves()

    def function(logits: Tensor, values: Tensor, weight: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        return run(Case(logits * 2, values, given.maximum, weight, total))

    assert_close(*compiled(function, given.differentiable()), 1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_the_operator_is_registered_right(packed: bool, device: torch.device) -> None:
    given = case(2, 2, 20, 8, dtype=torch.float32, device=device)
    cu_seqlens = None
    if packed:
        given = Case(*(tensor[:1] for tensor in given[:2]), *given[2:])
        cu_seqlens = torch.tensor([0, 7, 20], device=device)
    torch.library.opcheck(_forward, (*given.with_leaves(), cu_seqlens))


def test_second_derivatives(device: torch.device) -> None:
    given = case(1, 2, 20, 8, dtype=torch.float32, device=device).with_leaves()
    exact = given.with_leaves(torch.float64)
    found = with_second_derivatives(run(given), given.differentiable())
    assert_close(found, with_second_derivatives(recurrence(exact), exact.differentiable()), 1e-4)


def test_wrong_arguments_are_named(device: torch.device) -> None:
    given = case(2, 2, 5, 8, dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match="weight must be"):
        run(given._replace(weight=given.weight[:1]))
    with pytest.raises(ValueError, match="logits must be float32"):
        run(given._replace(logits=given.logits.double()))
    with pytest.raises(ValueError, match="batch of values must be 1"):
        run(given, torch.tensor([0, 2, 5], device=device))
