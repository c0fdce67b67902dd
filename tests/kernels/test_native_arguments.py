"""What C kernels are handed: each operator refuses every tensor of another shape, dtype or device, and reads every layout rightly or not
at all, before a pointer is read."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from subquadratic.attention.favor import native_layers
from subquadratic.attention.feedback import native as feedback
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.layers.linear import native as linear

from .operator_cases import (
    NAMES,
    Sizes,
    arguments_of,
    call,
    has_nan,
    operators,
    other_kinds,
    other_layouts,
    tensors_in,
    without_memory,
    wrong_shapes,
)

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
HERE = [name for name in NAMES if name in operators()]
REFUSED = (ValueError, RuntimeError)

# What one tensor alone says, or what broadcasts: operator, place among the arguments, axis (None: one more axis, or one less).
FREE = {
    ("complex_product", 0, 0), ("complex_product", 0, 1), ("complex_product", 0, 2), ("complex_product", 1, None),
    ("favor_read", 0, 2), ("favor_read", 2, 3), ("favor_step", 3, 0), ("favor_summarise", 1, 3), ("favor_summarise", 2, 0),
    ("feed_forward", 0, 0), ("turned_mean", 0, 0), ("turned_mean", 0, 2), ("turned_mean", 1, 0), ("turned_mean_backward", 4, 0),
    ("add_norm", 0, 0), ("feed_forward_few_rows", 0, 0), ("feed_forward_few_rows_int8", 0, 0),
    ("few_rows_maps", 0, 0), ("few_rows_maps", 0, 1), ("few_rows_maps", 0, None),
    ("few_rows_maps", (1, 0), 0), ("few_rows_maps", (1, 1), 0), ("favor_layers_step", 1, 0),
    *(("feedback_work", 0, axis) for axis in range(3)),
    ("running_mean", 3, 0), ("running_mean_backward", 6, 0), ("softmax_attention", 0, 2), ("softmax_attention", 2, 3),
    ("window_attention", 2, 3),
    *(("sums_of_outer_products", place, 1) for place in ((0, 0), (0, 1), (1, 0), (1, 1))),
}  # fmt: skip


def test_every_operator_is_here() -> None:
    assert operators() == set(HERE)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("more", [True, False])
def test_another_shape_is_refused(name: str, more: bool) -> None:
    arguments = arguments_of(name, Sizes(masked=more, turned=more))
    for place, x, put in tensors_in(arguments):
        for axis, wrong in wrong_shapes(x):
            try:
                found = call(name, put(wrong))
            except REFUSED as error:
                assert name in str(error) or "expand" in str(error)
                continue
            assert (name, place, axis) in FREE, f"{name} took argument {place} of shape {tuple(wrong.shape)} for {tuple(x.shape)}"
            assert [x.shape for x in found] == [x.shape for x in call(name, without_memory(put(wrong)))]


@pytest.mark.parametrize("name", [name for name in HERE if name != "feedback_work"])  # which reads no number
def test_another_dtype_or_device_is_refused(name: str) -> None:
    arguments = arguments_of(name, Sizes())
    for _, x, put in tensors_in(arguments):
        for other in other_kinds(x):
            with pytest.raises(REFUSED, match=name):
                call(name, put(other))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [True, False])
def test_none_is_refused_where_a_tensor_is_needed(name: str, more: bool) -> None:
    """PyTorch hands None through for any tensor. What this processor cannot compute is checked all the same, of tensors without memory."""
    arguments = arguments_of(name, Sizes(masked=more, turned=more))
    schema = getattr(torch.ops.subquadratic, name).default._schema.arguments
    for place, _, put in tensors_in(arguments):
        at, *index = place if isinstance(place, tuple) else (place,)
        where, kind = schema[at].name, schema[at].type.getElementType() if index else schema[at].type
        for given in (put(None), without_memory(put(None))) if name in HERE else (without_memory(put(None)),):
            if name == "favor_layers_step" and where == "biases" and "norm" in native_layers.BIASES[index[0] % len(native_layers.BIASES)]:
                with pytest.raises(ValueError, match=f"{name}: .*norm_bias must be a float32 tensor, got None"):
                    call(name, given)
            elif where == "scales":  # without one a weight must be float32
                with pytest.raises(ValueError, match=f"{name}: .* must be .*float32.*int8"):
                    call(name, given)
            elif kind.kind() == "OptionalType":
                call(name, given)
            elif index or name == "feedback_work":  # PyTorch lets none through in a list, and asks nobody where there is no other tensor
                with pytest.raises(RuntimeError, match=f"'{where}'|no tensor arguments"):
                    call(name, given)
            else:
                with pytest.raises(ValueError, match=rf"{name}: {where} must be .*(float32|int8).*, got None"):
                    call(name, given)


def test_none_is_refused_in_lists() -> None:
    checks = {"linear_maps": linear._check_maps, "sums_of_outer_products": linear._check_sums}
    for name, check in checks.items():
        arguments = arguments_of(name, Sizes())
        check(*arguments)
        for (at, index), _, put in tensors_in(arguments[:2]):
            where = list(inspect.signature(check).parameters)[at]
            with pytest.raises(ValueError, match=rf"{name}: {where}\[{index}\] must be a float32 tensor, got None"):
                check(*put(None), *arguments[2:])


@pytest.mark.parametrize("name", NAMES)
def test_what_autograd_would_differentiate_is_refused(name: str) -> None:
    """An operator has no derivatives: those are the autograd functions', which call it below autograd."""
    arguments = arguments_of(name, Sizes())
    arguments = arguments if name in HERE else without_memory(arguments)
    transforms = (
        lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
        lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        lambda f, x: torch.func.vmap(torch.func.grad(lambda y: f(y).sum()))(x[None]),
    )
    for _, x, put in tensors_in(arguments):
        if not x.is_floating_point():
            continue
        call(name, put(x.detach()))
        with pytest.raises(RuntimeError, match=f"{name} has no derivative"):
            call(name, put(x.detach().requires_grad_()))
        with torch.no_grad():
            assert not any(y.requires_grad for y in call(name, put(x.detach().requires_grad_())))
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match=f"{name} has no derivative"):
            call(name, put(forward_ad.make_dual(x, torch.ones_like(x))))
        for transform in transforms:
            with pytest.raises(RuntimeError, match=f"{name} has no derivative"):
                transform(lambda y, put=put: call(name, put(y))[0], x)


@pytest.mark.parametrize("name", HERE)
def test_another_layout_is_read_rightly_or_refused(name: str) -> None:
    arguments = arguments_of(name, Sizes())
    expected = call(name, arguments)
    for _, x, put in tensors_in(arguments):
        for other in other_layouts(x):
            try:
                found = call(name, put(other))
            except ValueError as error:
                assert name in str(error)
                continue
            for mine, true in zip(found, expected, strict=True):
                torch.testing.assert_close(mine, true, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HERE)
def test_nothing_at_all_is_computed_of_nothing(name: str) -> None:
    """A batch of no rows, a sequence of no positions: results of that size, or an error."""
    nothing = ({"batch": 0}, {"length": 0}, {"batch": 0, "length": 0}, {"length": 1}, {"keys": 0})
    for sizes in (Sizes(masked=masked, **sizes) for sizes in nothing for masked in (True, False)):
        try:
            arguments = arguments_of(name, sizes)
            found = call(name, arguments)
        except ValueError as error:
            assert name.removesuffix("_backward") in str(error)
            continue
        assert [x.shape for x in found] == [x.shape for x in call(name, without_memory(arguments))]
        assert not has_nan(name, found), "a sum over no positions is zero"


def test_bounds_of_documents_lie_in_the_row() -> None:
    arguments = arguments_of("favor_causal", Sizes(batch=1))
    for bounds in ([0, 71], [0, 30, 20, 70], [-1, 70], [0], [1, 70]):
        with pytest.raises(ValueError, match="favor_causal: "):
            call("favor_causal", [*arguments[:8], bounds, True])


def test_channels_are_turned_in_pairs() -> None:
    x = torch.randn(1, 2, 70, 7)
    with pytest.raises(ValueError, match="in pairs"):
        call("complex_product", [x, torch.randn(70, 7), False])
    with pytest.raises(ValueError, match="in pairs"):
        call("turned_mean", [x, torch.randn(70, 7), torch.randn(2, 14), None, False, 1.0, True])


def _run_feedback(gradients: bool) -> None:
    from subquadratic.models import FeedbackTransformer, FeedbackTransformerConfig

    torch.manual_seed(0)
    model = FeedbackTransformer(FeedbackTransformerConfig(dim=32, depth=2, heads=2, memory_length=16))
    with use_backend("native"), torch.set_grad_enabled(gradients):
        y = model(torch.randn(2, 40, 32))
        if gradients:
            y.square().mean().backward()


@pytest.mark.parametrize("kernel", ["feedback_forward", "feedback_backward"])
def test_a_feedback_loop_refuses_what_does_not_fit(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = feedback.Call.run
    seen: list[str] = []

    def with_each_wrong(self: Any, name: str, layers: Any, key_value: Any, **arguments: Any) -> None:
        for field, value in arguments.items() if name == kernel else ():
            if not isinstance(value, Tensor):
                continue
            wrongs = [x for _, x in wrong_shapes(value)] + list(other_kinds(value)) + [value.repeat_interleave(2, dim=-1)[..., ::2]]
            for wrong in wrongs:
                held = list(self._held)
                if field == "weights" and wrong.numel() > value.numel() and wrong.shape[1:] == value.shape[1:]:
                    continue  # storage: more of it does no harm
                with pytest.raises(REFUSED, match=name):
                    run(self, name, layers, key_value, **arguments | {field: wrong})
                self._held = held
            seen.append(field)
        run(self, name, layers, key_value, **arguments)

    monkeypatch.setattr(feedback.Call, "run", with_each_wrong)
    _run_feedback(True)
    assert {"line", "hidden", "weights", "merged"} <= set(seen)


def test_a_feedback_layer_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = feedback.Call.layer
    tried = 0

    def with_one_wrong(self: Any, maps: Any, **pointers: Any) -> Any:
        nonlocal tried
        wrong = (*(m if at != tried else m[:, :-1] for at, m in enumerate(maps)),)
        return layer(self, wrong, **pointers)

    monkeypatch.setattr(feedback.Call, "layer", with_one_wrong)
    for tried in range(len(feedback.MAPS)):
        with pytest.raises(ValueError, match=f"feedback_forward: {feedback.MAPS[tried]} must be"):
            _run_feedback(False)


def test_checks_do_not_go_with_assertions() -> None:
    code = (
        "import torch, subquadratic.attention.favor.native_step; x = torch.zeros(1, 1, 1, 4);"
        "torch.ops.subquadratic.favor_step(*[x] * 9)"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "ValueError: favor_step: " in done.stderr


NO_MEMORY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
int before = -1; // how many more times the kernels get memory; below zero: always

int posix_memalign(void **at, size_t alignment, size_t size) {
    static int (*real)(void **, size_t, size_t);
    Dl_info caller;
    if (!real) real = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    int of_kernels = dladdr(__builtin_return_address(0), &caller) && strstr(caller.dli_fname, "/kernels-");
    if (of_kernels && before >= 0 && __atomic_fetch_sub(&before, 1, __ATOMIC_RELAXED) <= 0) {
        before = 0;
        return ENOMEM;
    }
    return real(at, alignment, size);
}
"""
WITHOUT_MEMORY = """
import ctypes, sys, torch
from tests.kernels.operator_cases import Sizes, arguments_of, call
from tests.kernels.test_native_arguments import HERE, _run_feedback
before = ctypes.c_int.in_dll(ctypes.CDLL(sys.argv[1]), "before")
torch.set_num_threads(2)
def fails(run, count):
    before.value = count
    try:
        run()
    except RuntimeError as error:
        return "out of memory. " in str(error)
    finally:
        before.value = -1
for name in HERE:
    for sizes in (Sizes(), Sizes(batch=1, heads=1, length=1100, keys=1100)):
        arguments = arguments_of(name, sizes)
        if any(fails(lambda: call(name, arguments), count) for count in range(3)):
            print(name)
        call(name, arguments)
for gradients in (False, True):
    if fails(lambda: _run_feedback(gradients), 2 * gradients):
        print("feedback", gradients)
"""


def test_where_memory_runs_out_a_kernel_raises(tmp_path: Path) -> None:
    """Every one, whichever thread asks; and the next call works."""
    source, made = tmp_path / "no_memory.c", tmp_path / "no_memory.so"
    source.write_text(NO_MEMORY)
    subprocess.run([shutil.which("gcc") or "cc", "-shared", "-fPIC", str(source), "-o", str(made), "-ldl"], check=True)
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(made)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *sys.path])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LD_PRELOAD": str(made), "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-800:]
    without = {"add_norm", "add_norm_backward", "complex_product", "feedback_work"}
    assert set(done.stdout.split("\n")) - {""} == {*HERE} - without | {"feedback False", "feedback True"}
