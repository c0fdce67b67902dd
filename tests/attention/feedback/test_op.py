"""The feedback recurrence as one operation: against its definition, by finite differences, and in parts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subquadratic.attention.feedback import products as feedback_products
from subquadratic.attention.feedback.formula import feedback_recurrence_reference
from subquadratic.attention.feedback.op import feedback_recurrence
from subquadratic.attention.feedback.products import Product
from subquadratic.attention.feedback.weights import LayerWeights, MemoryWeights, Norm, flatten, unflatten

DIM, HEADS, WIDTH, INNER = 6, 2, 3, 5

CASES = {
    "paper": {},
    "no gate": {"gated": False},
    "maps per layer": {"groups": 2},
    "last hidden": {"mixed": False},
    "no bias": {"biased": False},
    "scale norm": {"norm": "scale"},
    "no norm, gains": {"norm": "none"},
    "one layer": {"depth": 1},
    "three layers": {"depth": 3},
    "three maps": {"depth": 3, "groups": 3},
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
TIMES = pytest.mark.parametrize(
    ("length", "window", "detach_every"),
    [(1, 3, None), (2, 3, None), (7, 3, None), (5, 9, None), (9, 4, 2), (16, 3, 4), (17, 20, None), (33, 20, 15)],
)


def draw(
    *, depth: int = 2, groups: int = 1, gated: bool = True, mixed: bool = True, biased: bool = True, norm: str = "layer", columns: int = 3
) -> tuple[MemoryWeights, list[LayerWeights]]:
    """Random parameters; ``columns``: of the bias."""

    def new(*shape: int) -> Tensor:
        return (torch.randn(shape, dtype=torch.float64) * 0.5).requires_grad_()

    def normed() -> tuple[Tensor | None, Tensor | None]:
        return {"layer": (new(DIM), new(DIM)), "scale": (new(1), None), "none": (None, None)}[norm]

    def gain() -> Tensor | None:
        return new() if norm == "none" else None

    wide = HEADS * WIDTH
    layers = [
        LayerWeights(
            *normed(), new(wide, DIM), new(DIM, wide), new(DIM), gain(),
            *normed(), new(INNER * (2 if gated else 1), DIM), new(INNER * (2 if gated else 1)), new(DIM, INNER), new(DIM), gain(),
        )
        for _ in range(depth)
    ]  # fmt: skip
    mixture = new(depth + 1) if mixed else None
    norms = normed() if norm != "none" else (new(DIM), new(DIM))
    return MemoryWeights(mixture, *norms, new(groups * 2 * wide, DIM), new(HEADS, columns) if biased else None), layers


def leaves(*given: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in given if tensor is not None and tensor.requires_grad]


def equal_with_gradients(
    parameters: tuple[MemoryWeights, list[LayerWeights]],
    x: Tensor,
    before: Tensor | None = None,
    empty: Tensor | None = None,
    **times: int | None,
) -> None:
    """Outputs, and gradients of everything from both outputs, are those of the definition."""
    y, line = feedback_recurrence(x, before, empty, *parameters, heads=HEADS, **times)
    expected_y, expected_line = feedback_recurrence_reference(x, before, empty, *parameters, heads=HEADS, **times)
    line_length = line.shape[-2] - (before is None)  # the last memory without a state is not made
    line, expected_line = line[..., :line_length, :], expected_line[..., :line_length, :]
    assert torch.allclose(y, expected_y, rtol=0, atol=1e-11)
    assert torch.allclose(line, expected_line, rtol=0, atol=1e-11)
    with torch.no_grad():
        quick, quick_line = feedback_recurrence(x, before, empty, *parameters, heads=HEADS, **times)
    assert torch.allclose(quick, y, rtol=0, atol=1e-12) and torch.allclose(quick_line[..., :line_length, :], line, rtol=0, atol=1e-12)
    to_y, to_line = torch.randn_like(y), torch.randn_like(line) if before is not None else torch.zeros_like(line)
    inputs = leaves(x, before, *flatten(*parameters))
    found = torch.autograd.grad((y * to_y).sum() + (line * to_line).sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad((expected_y * to_y).sum() + (expected_line * to_line).sum(), inputs, allow_unused=True)
    for gradient, other, leaf in zip(found, wanted, inputs, strict=True):
        other = torch.zeros_like(leaf) if other is None else other
        assert torch.allclose(torch.zeros_like(leaf) if gradient is None else gradient, other, rtol=1e-9, atol=1e-10)


@EVERY
@TIMES
def test_it_is_the_definition(case: dict[str, object], length: int, window: int, detach_every: int | None) -> None:
    x = torch.randn(3, length, DIM, dtype=torch.float64, requires_grad=True)
    equal_with_gradients(draw(**case, columns=min(window, length)), x, window=window, detach_every=detach_every)


@EVERY
@pytest.mark.parametrize(("length", "window", "detach_every"), [(1, 3, None), (8, 3, None), (20, 6, 5)])
@pytest.mark.parametrize("lacking", ["nothing", "everything", "something", "all but one row"])
def test_it_goes_on_from_memories_before(case: dict[str, object], length: int, window: int, detach_every: int | None, lacking: str) -> None:
    groups = case.get("groups", 1)
    x = torch.randn(3, length, DIM, dtype=torch.float64, requires_grad=True)
    before = torch.randn(3, window, groups, 2, HEADS, WIDTH, dtype=torch.float64, requires_grad=True)
    empty = {
        "nothing": torch.zeros(3, dtype=torch.int64),
        "everything": torch.full((3,), window),
        "something": torch.tensor([1, window, 2]),
        "all but one row": torch.tensor([window, window, 0]),
    }[lacking]
    equal_with_gradients(draw(**case, columns=window), x, before, empty, window=window, detach_every=detach_every)


@EVERY
def test_it_passes_gradcheck(case: dict[str, object]) -> None:
    memory, layers = draw(**case)
    groups = case.get("groups", 1)
    x = torch.randn(2, 4, DIM, dtype=torch.float64, requires_grad=True)
    before = torch.randn(2, 3, groups, 2, HEADS, WIDTH, dtype=torch.float64, requires_grad=True)
    empty = torch.tensor([3, 1])
    flat = flatten(memory, layers)
    given = leaves(x, before, *flat)

    def run(x: Tensor, before: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        rest = iter(parameters)
        memory, layers = unflatten([None if tensor is None else next(rest) for tensor in flat])
        return feedback_recurrence(x, before, empty, memory, layers, heads=HEADS, window=3)

    assert torch.autograd.gradcheck(run, given, fast_mode=True)


def test_only_what_is_wanted_gets_a_gradient() -> None:
    memory, layers = draw()
    for tensor in leaves(*flatten(memory, layers)):
        tensor.requires_grad_(False)
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    y, _ = feedback_recurrence(x, None, None, memory, layers, heads=HEADS, window=3)
    assert not y.requires_grad
    layers[1].contract.requires_grad_()
    y, _ = feedback_recurrence(x, None, None, memory, layers, heads=HEADS, window=3)
    y.sum().backward()
    assert layers[1].contract.grad is not None and layers[0].contract.grad is None and memory.key_value.grad is None


def test_a_kept_graph_gives_the_same_again() -> None:
    memory, layers = draw()
    x = torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)
    y, _ = feedback_recurrence(x, None, None, memory, layers, heads=HEADS, window=3)
    (first,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    assert torch.equal(first, again)


@pytest.mark.parametrize("carried", [True, False])
def test_second_derivatives(carried: bool) -> None:
    memory, layers = draw()
    flat = flatten(memory, layers)
    given = leaves(*flat)
    x = torch.randn(2, 4, DIM, dtype=torch.float64, requires_grad=True)
    before = empty = None
    if carried:
        groups = memory.key_value.shape[0] // (2 * layers[0].query.shape[0])
        before = torch.randn(2, 3, groups, 2, HEADS, layers[0].query.shape[0] // HEADS, dtype=torch.float64, requires_grad=True)
        empty = torch.tensor([0, 2])

    def penalty(run: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        y, _ = run(x, before, empty, memory, layers, heads=HEADS, window=3, detach_every=2)
        wanted = [tensor for tensor in (x, before, *given) if tensor is not None]
        first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True, allow_unused=True)
        return [*torch.autograd.grad(sum(g.square().sum() for g in first if g is not None), wanted, allow_unused=True)]

    for found, true in zip(penalty(feedback_recurrence), penalty(feedback_recurrence_reference), strict=True):
        assert (found is None) == (true is None)
        if found is not None:
            torch.testing.assert_close(found, true)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("steps", [1, 40])
def test_products_are_linear_maps(rows: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_products, "PACKED_NUMBERS", 1)  # so that each way of laying out is taken
    x, weight, bias, base = torch.randn(rows, 7), torch.randn(5, 7), torch.randn(5), torch.randn(rows, 5)
    product = Product(weight, bias, rows=rows, steps=steps)
    out = torch.empty(rows, 5)
    assert torch.allclose(product.into(x, out), x @ weight.T + bias, atol=1e-5)
    assert torch.allclose(product.added_to(base, x, out), base + x @ weight.T + bias, atol=1e-5)
    back = Product(weight.T, rows=rows, steps=steps)
    assert torch.allclose(back.into(base, torch.empty(rows, 7)), base @ weight, atol=1e-5)


def test_float32_is_accurate() -> None:
    memory, layers = draw(columns=16)
    x = torch.randn(4, 40, DIM, dtype=torch.float64, requires_grad=True)
    y, _ = feedback_recurrence(x, None, None, memory, layers, heads=HEADS, window=16)
    expected = torch.autograd.grad(y.sin().sum(), [x, *leaves(*flatten(memory, layers))])
    single = unflatten([None if t is None else t.detach().float().requires_grad_() for t in flatten(memory, layers)])
    z = x.detach().float().requires_grad_()
    y32, _ = feedback_recurrence(z, None, None, *single, heads=HEADS, window=16)
    assert (y32 - y).pow(2).mean().sqrt() < 1e-5 * y.pow(2).mean().sqrt()
    for found, other in zip(torch.autograd.grad(y32.sin().sum(), [z, *leaves(*flatten(*single))]), expected, strict=True):
        assert (found - other).pow(2).mean().sqrt() < 1e-4 * other.pow(2).mean().sqrt()


def test_a_norm_goes_back_as_autograd_does() -> None:
    for weight, bias in ((torch.randn(DIM), torch.randn(DIM)), (torch.randn(1), None)):
        x = torch.randn(4, 2, DIM, dtype=torch.float64, requires_grad=True)
        parameters = [p.double().requires_grad_() for p in (weight, bias) if p is not None]
        norm = Norm(*parameters) if bias is not None else Norm(parameters[0], None)
        y = norm(x)
        gradient = torch.randn_like(y)
        expected = torch.autograd.grad(y, [x, *parameters], gradient)
        normed, prepared = norm.prepare(x.detach())
        assert torch.allclose(normed, y)
        assert torch.allclose(norm.input_gradient(gradient, prepared), expected[0])
        for found, other in zip(norm.parameter_gradients(gradient, x.detach()), expected[1:], strict=False):
            assert torch.allclose(found, other)
