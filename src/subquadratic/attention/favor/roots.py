"""Square roots of symmetric positive definite matrices, with every kind of derivative, also where eigenvalues coincide.

The derivative of R = X^(1/2) solves R dR + dR R = dX, whose solution in the eigenbasis of R divides by sums of its eigenvalues: unlike
the derivative of eigenvectors, it does not divide by differences. The solution is differentiated by the same equation, so that every
order follows. The eigenbasis itself is a constant for autograd.
"""

from typing import Any

import torch
from torch import Tensor


def square_root(matrix: Tensor, *, floor: float = 1e-12) -> Tensor:
    """The symmetric root of symmetric positive definite matrices (..., K, K).

    Args:
        floor: the smallest eigenvalue there may be; what rounding puts below is raised to it. A matrix that holds NaN or infinity gives
            the root of the identity, so that one row of a batch does not stop the others.
    """
    with torch.no_grad():
        finite = matrix.detach().isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
        safe = torch.where(finite, matrix.detach(), torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))
        values, basis = torch.linalg.eigh(safe)
        roots = values.clamp_min(floor).sqrt()
    return _Root.apply(matrix, basis, roots)  # type: ignore[no-any-return]


class _Root(torch.autograd.Function):
    """(X, basis, roots of its eigenvalues) -> X^(1/2)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, basis: Tensor, roots: Tensor) -> Tensor:
        return (basis * roots[..., None, :]) @ basis.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, *inputs[1:])
        ctx.save_for_forward(output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Solve.apply(ctx.saved_tensors[0], gradient, *ctx.saved_tensors[1:]), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return _Solve.apply(ctx.saved_tensors[0], tangent, *ctx.saved_tensors[1:])  # type: ignore[no-any-return]


class _Solve(torch.autograd.Function):
    """(R, G, eigenbasis of R, its eigenvalues) -> X with R X + X R = G."""

    generate_vmap_rule = True

    @staticmethod
    def forward(root: Tensor, right: Tensor, basis: Tensor, roots: Tensor) -> Tensor:
        return basis @ ((basis.mT @ right @ basis) / (roots[..., :, None] + roots[..., None, :])) @ basis.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        root, _, basis, roots = inputs
        ctx.save_for_backward(root, output, basis, roots)
        ctx.save_for_forward(root, output, basis, roots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        root, solution, basis, roots = ctx.saved_tensors
        right = _Solve.apply(root, gradient, basis, roots)
        return -(right @ solution.mT + solution.mT @ right), right, None, None

    @staticmethod
    def jvp(ctx: Any, d_root: Tensor, d_right: Tensor | None, *_: Any) -> Tensor:
        root, solution, basis, roots = ctx.saved_tensors
        change = -(d_root @ solution + solution @ d_root) if d_root is not None else torch.zeros_like(solution)
        return _Solve.apply(root, change if d_right is None else change + d_right, basis, roots)  # type: ignore[no-any-return]
