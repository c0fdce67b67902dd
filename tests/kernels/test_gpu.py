"""The kernels compiled for a GPU, against float64: bfloat16, which the interpreter cannot multiply, and sizes that it is too slow for."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need triton: pip install 'subquadratic[triton]'")

from tests.attention.additive import case as pool_case
from tests.attention.favor import case as linear_case
from tests.attention.low_rank import case as slot_case
from tests.checks import TOLERANCE, assert_close, with_gradients

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
Run = Callable[..., Sequence[Tensor]]


def linear(dtype: torch.dtype, length: int, features: int = 256, width: int = 64) -> tuple[Any, Run, Run]:
    return linear_case.case(2, 3, length, features, width, dtype=dtype, device=DEVICE), linear_case.run, linear_case.recurrence


def pool(dtype: torch.dtype, length: int) -> tuple[Any, Run, Run]:
    return pool_case.case(2, 3, length, 64, dtype=dtype, device=DEVICE), pool_case.run, pool_case.recurrence


def slot(dtype: torch.dtype, length: int, shared: int = 2, width: int = 64) -> tuple[Any, Run, Run]:
    shape = slot_case.Shape(2, 2, shared, length, 128, width, width)
    return slot_case.case(shape, dtype=dtype, device=DEVICE), slot_case.run, slot_case.recurrence


def check(made: tuple[Any, Run, Run], dtype: torch.dtype) -> None:
    given, run, recurrence = made
    given = given.with_leaves()
    exact = given.with_leaves(torch.float64)
    inputs, leaves = (case.differentiable() if hasattr(case, "differentiable") else case for case in (given, exact))
    assert_close(with_gradients(run(given), inputs), with_gradients(recurrence(exact), leaves), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 15, 64, 300])
@pytest.mark.parametrize("make", [linear, pool, slot])
def test_equals_the_recurrence(make: Callable[..., tuple[Any, Run, Run]], length: int, dtype: torch.dtype) -> None:
    check(make(dtype, length), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("features", "width"), [(266, 64), (40, 8), (512, 128), (64, 256)])
def test_linear_attention_of_any_size(features: int, width: int, dtype: torch.dtype) -> None:
    check(linear(dtype, 100, features, width), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shared", "width"), [(1, 64), (2, 8), (2, 128), (2, 256)])
def test_slots_of_any_size(shared: int, width: int, dtype: torch.dtype) -> None:
    check(slot(dtype, 100, shared, width), dtype)


@pytest.mark.parametrize("make", [linear, pool, slot])
def test_half_a_bfloat16_batch_ahead_changes_nothing_before(make: Callable[..., tuple[Any, Run, Run]]) -> None:
    given, run, _ = make(torch.bfloat16, 200)
    later = torch.arange(200, device=DEVICE) >= 101
    names = [name for name in ("queries", "keys", "values", "key_weights", "value_weights") if hasattr(given, name)]
    changed = given._replace(**{name: torch.where(later[:, None], getattr(given, name) * 8, getattr(given, name)) for name in names})
    before, after = run(given)[0], run(changed)[0]
    assert torch.equal(before[:, :, :101], after[:, :, :101])
    assert not torch.equal(before[:, :, 101:], after[:, :, 101:])


@pytest.mark.parametrize("make", [linear, pool, slot])
def test_compiled_by_inductor(make: Callable[..., tuple[Any, Run, Run]]) -> None:
    given, run, _ = make(torch.bfloat16, 100)
    given = given.with_leaves()
    inputs = given.differentiable() if hasattr(given, "differentiable") else given
    fast = torch.compile(lambda case: run(case), fullgraph=True)
    assert_close(with_gradients(fast(given), inputs), with_gradients(run(given), inputs), 1e-6)
