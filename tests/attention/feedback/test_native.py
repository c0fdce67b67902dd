"""The feedback recurrence by the C kernels against PyTorch's loop in float64 and float32: outputs, the line of memories, all gradients."""

import pytest
import torch
from torch import Tensor

from subquadratic.attention.feedback import native as kernel
from subquadratic.attention.feedback.op import feedback_recurrence
from subquadratic.attention.feedback.weights import LayerWeights, MemoryWeights, flatten, unflatten
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))

DIM, HEADS, WIDTH, INNER = 32, 2, 16, 48

CASES = {
    "paper": {},
    "no gate": {"gated": False},
    "maps per layer": {"groups": 2},
    "last hidden": {"mixed": False},
    "no bias": {"biased": False},
    "scale norm": {"norm": "scale"},
    "no norm, gains": {"norm": "none"},
    "one layer": {"depth": 1},
    "three maps": {"depth": 3, "groups": 3},
}


def draw(
    *, depth: int = 2, groups: int = 1, gated: bool = True, mixed: bool = True, biased: bool = True, norm: str = "layer", columns: int
) -> list[Tensor | None]:
    """Random parameters, flat; ``columns``: of the bias."""

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64) * (shape[-1] ** -0.5 if len(shape) == 2 else 0.5)

    def normed() -> tuple[Tensor | None, Tensor | None]:
        return {"layer": (1 + new(DIM), new(DIM)), "scale": (1 + new(1), None), "none": (None, None)}[norm]

    wide, outer = HEADS * WIDTH, INNER * (2 if gated else 1)
    layers = [
        LayerWeights(
            *normed(), new(wide, DIM), new(DIM, wide), new(DIM), 1 + new() if norm == "none" else None,
            *normed(), new(outer, DIM), new(outer), new(DIM, INNER), new(DIM), 1 + new() if norm == "none" else None,
        )
        for _ in range(depth)
    ]  # fmt: skip
    norms = normed() if norm != "none" else (1 + new(DIM), new(DIM))
    memory = MemoryWeights(new(depth + 1) if mixed else None, *norms, new(groups * 2 * wide, DIM), new(HEADS, columns) if biased else None)
    return flatten(memory, layers)


def run(
    backend: str, dtype: torch.dtype, flat: list[Tensor | None], given: list[Tensor | None], empty: Tensor | None, **times: int | None
) -> list[Tensor]:
    """Output, line, and all gradients; the same outputs without gradients."""
    flat, (x, before) = ([None if t is None else t.detach().to(dtype).requires_grad_() for t in part] for part in (flat, given))
    torch.manual_seed(1)
    with use_backend(backend):
        y, line = feedback_recurrence(x, before, empty, *unflatten(flat), heads=HEADS, **times)
        line = line[..., : line.shape[-2] - (before is None), :]  # the last memory without a state is not made
        with torch.no_grad():
            quick, quick_line = feedback_recurrence(x, before, empty, *unflatten(flat), heads=HEADS, **times)
        loss = (y * torch.randn(y.shape, dtype=torch.float64).to(dtype)).sum()
        if before is not None:
            loss = loss + (line * torch.randn(line.shape, dtype=torch.float64).to(dtype)).sum()
        inputs = [t for t in (x, before, *flat) if t is not None]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert (torch.equal(quick, y) and torch.equal(quick_line[..., : line.shape[-2], :], line)) or backend == "torch"
    return [y, line, *(torch.zeros_like(t) if g is None else g for g, t in zip(gradients, inputs, strict=True))]


def compare(case: dict[str, object], batch: int, length: int, window: int, detach_every: int | None, lacking: list[int] | None) -> None:
    groups, columns = int(case.get("groups", 1)), window if lacking is not None else min(window, length)
    flat, x = draw(**case, columns=columns), torch.randn(batch, length, DIM, dtype=torch.float64)
    before = None if lacking is None else torch.randn(batch, window, groups, 2, HEADS, WIDTH, dtype=torch.float64)
    empty = None if lacking is None else torch.tensor(lacking)
    loops = ("native", torch.float32), ("torch", torch.float32), ("torch", torch.float64)
    found = [run(*loop, flat, [x, before], empty, window=window, detach_every=detach_every) for loop in loops]
    for mine, plain, true in zip(*found, strict=True):
        few = 1e-3 if true.numel() == 1 else 2e-5  # the gradient of a gain is a small difference of large numbers
        assert distance(mine, true) <= 10 * distance(plain, true) + few * float(true.detach().square().mean().sqrt())


def distance(found: Tensor, true: Tensor) -> float:
    return float((found.detach().double() - true.detach()).square().mean().sqrt())


@pytest.fixture(autouse=True)
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were called; at the end of a test both have been."""
    names: list[str] = []
    call = kernel.Call.run

    def noted(self: kernel.Call, name: str, *given: object, **more: object) -> None:
        names.append(name)
        call(self, name, *given, **more)

    monkeypatch.setattr(kernel.Call, "run", noted)
    return names


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    ("batch", "length", "window", "detach_every"), [(1, 16, 3, None), (3, 17, 20, None), (2, 33, 20, 15), (9, 20, 5, 4)]
)
def test_it_is_the_loop(
    lanes: None, case: dict[str, object], batch: int, length: int, window: int, detach_every: int | None, called: list[str]
) -> None:
    compare(case, batch, length, window, detach_every, None)
    assert called == ["feedback_forward", "feedback_forward", "feedback_backward"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("lacking", [[0, 0, 0], [6, 6, 6], [1, 6, 2], [6, 6, 0]], ids=str)
def test_it_goes_on_from_memories_before(case: dict[str, object], lacking: list[int]) -> None:
    compare(case, 3, 20, 6, 5, lacking)


@pytest.mark.parametrize("threads", [2, 3], indirect=True)
def test_any_number_of_threads(threads: int) -> None:
    compare({}, 5, 24, 10, None, None)


def test_other_widths_take_the_loop(called: list[str]) -> None:
    memory, layers = unflatten(draw(columns=3))
    narrow = layers[0]._replace(
        expand=layers[0].expand[: 2 * 40], expand_bias=layers[0].expand_bias[: 2 * 40], contract=layers[0].contract[:, :40]
    )
    with use_backend("native"):
        feedback_recurrence(
            torch.randn(1, 20, DIM, dtype=torch.float64).float(),
            None,
            None,
            *unflatten([t if t is None else t.float() for t in flatten(memory, [narrow, narrow])]),
            heads=HEADS,
            window=3,
        )
    assert called == []
