"""Square roots of symmetric positive definite matrices, with every kind of derivative, also where eigenvalues coincide.

The derivative of R = X^(1/2) solves R dR + dR R = dX, whose solution in the eigenbasis of R divides by sums of its eigenvalues: unlike
the derivative of eigenvectors, it does not divide by differences. The solution is differentiated by the same equation, so that every
order follows. The eigenbasis itself is a constant for autograd.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALLEST = 1e-12  # eigenvalue there may be: what rounding puts below is raised to it


class Eigen(NamedTuple):
    """Eigenvalues (..., K) and eigenvectors (..., K, K) of symmetric matrices, constants for autograd."""

    values: Tensor
    basis: Tensor


@torch.no_grad()
def eigen_of(matrix: Tensor) -> Eigen:
    """Of symmetric matrices (..., K, K). One that holds NaN or infinity is taken for the identity: a row of a batch does not stop the
    others."""
    matrix = matrix.detach()
    finite = matrix.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    return Eigen(*torch.linalg.eigh(torch.where(finite, matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))))


def square_root(matrix: Tensor, eigen: Eigen | None = None) -> Tensor:
    """The symmetric root of symmetric positive definite matrices (..., K, K), of which the eigenvalues and vectors may be known."""
    values, basis = eigen_of(matrix) if eigen is None else eigen
    return _Root.apply(matrix, basis, values.clamp_min(SMALLEST).sqrt())


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
        root, *eigen = ctx.saved_tensors  # once: checkpointing unpacks them once
        return _Solve.apply(root, gradient, *eigen), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        root, *eigen = ctx.saved_tensors
        return _Solve.apply(root, tangent, *eigen)


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
        return _Solve.apply(root, change if d_right is None else change + d_right, basis, roots)
