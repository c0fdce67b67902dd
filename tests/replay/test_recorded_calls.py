"""A function recorded as a list of calls does what the function does, or is refused."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from subquadratic.core.tracing import in_one_call
from subquadratic.replay.recorded_calls import record


def replay(function: Callable[..., Sequence[Tensor]], *inputs: Tensor, constants: Sequence[Tensor] = ()) -> None:
    """Its program gives what it gives, for other numbers too, and leaves the inputs alone."""
    results, recording = record(function, inputs, constants)
    assert recording is not None
    program = recording.bind(constants)
    for given in (inputs, [torch.randn_like(x) if x.is_floating_point() else x + 1 for x in inputs]):
        before = [x.clone() for x in given]
        again, expected = program(*given), function(*given)
        assert len(again) == len(results) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))


def bound(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], constants: Sequence[Tensor] = ()) -> Any:
    """The program that a recording becomes."""
    recording = record(function, inputs, constants)[1]
    assert recording is not None
    return recording.bind(constants)


class Counted(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return function(*args, **(kwargs or {}))


def test_operators_methods_functions_and_constants() -> None:
    weight, bias = torch.randn(4, 3), torch.randn(4)
    replay(
        lambda x, y: [F.gelu(F.linear(x, weight, bias)) - y.mT.sum(1), x.max(dim=-1).values, 2.0 * x, x[..., None, 1:] @ y[:, :2, None]],
        torch.randn(3, 3),
        torch.randn(3, 4)[:, :4],
        constants=[weight, bias],
    )


def test_changes_in_place_of_what_was_made() -> None:
    def function(x: Tensor) -> list[Tensor]:
        made = x.clone()
        part = made[1:]
        part.mul_(3).add_(1)
        made[0] = 7.0
        made += 1
        torch.mul(made, 2, out=part.new_empty(3)) if made.shape == (3,) else None
        return [made, part]

    replay(function, torch.randn(4))


def test_a_slice_taken_twice_shows_what_happened_between() -> None:
    def function(x: Tensor) -> list[Tensor]:
        made = x * 1
        first = made[:2]
        before = first.clone()
        made.add_(1)
        return [before, made[:2], made[[0, 1]], first]

    replay(function, torch.randn(3))


def test_inputs_may_come_back_and_dead_ends_go() -> None:
    calls = []

    @in_one_call
    def noted(x: Tensor, text: str) -> None:
        calls.append((text, float(x)))

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        _unused = x.exp().sum()
        noted(y.sum(), text="sum")
        return [y, x.to(x.dtype), x.contiguous() + 1]

    program = bound(function, (torch.ones(2), torch.ones(3)))
    calls.clear()
    x, y = torch.zeros(2), torch.full((3,), 2.0)
    results = program(x, y)
    assert results[0] is y
    assert results[1] is x
    assert calls == [("sum", 6.0)]
    assert "exp" not in program.__code__.co_names


def test_one_call_may_look_at_numbers() -> None:
    @in_one_call
    def scaled_where_positive(x: Tensor, by: float) -> tuple[Tensor, Tensor]:
        return (x, x * by) if float(x.sum()) > 0 else (x - 1, x)

    def function(x: Tensor) -> list[Tensor]:
        a, b = scaled_where_positive(x, 3.0)
        return [a + 0, b + 0, x + 0]

    replay(function, torch.ones(3))
    program = bound(function, (torch.ones(3),))
    for x in (torch.ones(3), -torch.ones(3)):
        assert all(torch.equal(a, b) for a, b in zip(program(x), function(x), strict=True))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * x.sum().item()],
        lambda x: [x * float(x.sum())],
        lambda x: [x if x.sum() > 0 else -x],
        lambda x: [x * (1 if torch.equal(x, x) else 0)],
        lambda x: [x[: int(x.abs().sum()) % 2 + 1]],
        lambda x: [torch.tensor(x.tolist())],
        lambda x: [x[x > 0]],
        lambda x: [x.nonzero()],
        lambda x: [x.masked_select(x > 0)],
        lambda x: [x.repeat_interleave(torch.tensor([1, 2, 1]))],
        lambda x: [x * x.numpy().sum()],
    ],
)
def test_what_depends_on_numbers_is_refused(function: Callable[[Tensor], list[Tensor]]) -> None:
    x = torch.randn(3)
    results, program = record(function, (x,), ())
    assert program is None
    assert all(torch.equal(a, b) for a, b in zip(results, function(x), strict=True))


def test_a_tensor_from_elsewhere_is_refused() -> None:
    other = torch.randn(3)
    assert record(lambda x: [x + other], (torch.randn(3),), ())[1] is None
    assert record(lambda x: [other], (torch.randn(3),), ())[1] is None
    assert record(lambda x: [x + other], (torch.randn(3),), [other])[1] is not None


def test_constants_are_read_anew() -> None:
    weight = torch.ones(3)
    program = bound(lambda x: [x * weight], (torch.ones(3),), [weight])
    weight.fill_(5.0)
    assert program(torch.ones(3))[0].tolist() == [5, 5, 5]


def test_what_no_input_reaches_is_made_once() -> None:
    def function(x: Tensor) -> list[Tensor]:
        rates = 1.0 / 10.0 ** (torch.arange(0, 6, 2, dtype=torch.float32) / 6)
        return [x * rates[:, None].to(torch.float64), rates.sin() + x]

    x = torch.randn(3, 3)
    replay(function, x)
    program = bound(function, (x,))
    with Counted() as counted:
        program(x)
    assert counted.calls == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x + torch.arange(3).add_(1)],
        lambda x: [x + torch.arange(6).chunk(2)[0].mul_(2)],
        lambda x: [x + torch.arange(3)[None].mul_(2)[0]],
        lambda x: [x, torch.arange(3)],
        lambda x: [x, torch.arange(3).view(3, 1).unbind(1)[0]],
    ],
)
def test_what_is_made_once_stays_as_it_is(function: Callable[[Tensor], list[Tensor]]) -> None:
    assert record(function, (torch.randn(3),), ())[1] is None


def test_random_numbers_are_drawn_anew() -> None:
    program = bound(lambda x: [x + torch.rand(3)], (torch.zeros(3),))
    assert not torch.equal(program(torch.zeros(3))[0], program(torch.zeros(3))[0])


def test_an_exception_passes() -> None:
    @in_one_call
    def refuse(x: Tensor, limit: float) -> None:
        if float(x.max()) > limit:
            raise ValueError("too large")

    def function(x: Tensor) -> list[Tensor]:
        refuse(x, 1.0)
        return [x + 1]

    program = bound(function, (torch.zeros(2),))
    with pytest.raises(ValueError, match="too large"):
        program(torch.full((2,), 2.0))
    with pytest.raises(ValueError, match="too large"):
        record(function, (torch.full((2,), 2.0),), ())
