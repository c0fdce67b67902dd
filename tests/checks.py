"""What every kernel test asks: errors against float64, gradients with one random direction, compilation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """RMS(expected - found) / RMS(expected) within ``tolerance`` for each pair; where nothing but zeros is expected, zeros are found."""
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape, f"{i}: {tuple(a.shape)}, expected {tuple(b.shape)}"
        assert a.isfinite().all(), f"{i}: not finite"
        error = (a.double() - b.double()).square().mean().sqrt()
        assert error <= tolerance * b.double().square().mean().sqrt(), f"{i}: error {error:.2e} of {b.double().square().mean().sqrt():.2e}"


def directions(outputs: Sequence[Tensor]) -> list[Tensor]:
    """What to differentiate along: the same for outputs of the same shapes."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in outputs]


def with_gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, then the gradient of each input."""
    gradients = torch.autograd.grad(outputs, inputs, directions(outputs))
    return [tensor.detach() for tensor in outputs] + list(gradients)


def with_second_derivatives(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What a penalty on the gradients of all inputs, and on the outputs, says of each input."""
    gradients = torch.autograd.grad(outputs, inputs, directions(outputs), create_graph=True)
    both = [*outputs, *gradients]
    return list(torch.autograd.grad(both, inputs, directions(both), retain_graph=True))


def compiled(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of a function compiled whole, and of the same function plain."""
    torch._dynamo.reset()
    fast = torch.compile(function, fullgraph=True, backend="aot_eager")
    return with_gradients(fast(*inputs), inputs), with_gradients(function(*inputs), inputs)
