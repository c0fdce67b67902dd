"""Square roots of symmetric positive definite matrices, with first and second derivatives, also where eigenvalues coincide.

The derivative of R = X^(1/2) solves R dR + dR R = dX, whose solution in the eigenbasis of R divides by sums of its eigenvalues: unlike
the derivative of eigenvectors, it does not divide by differences. From a root R0 that is a constant for autograd, as its eigenbasis is,
each step of Newton's method with the derivative of R0 changes no number, and makes one more order of derivatives right.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.backend import is_traced
from ...core.tracing import needs_gradient

SMALLEST = 1e-12  # eigenvalue there may be: what rounding puts below is raised to it
ORDERS = 2  # of derivatives


class Eigen(NamedTuple):
    """Eigenvalues (..., K) and eigenvectors (..., K, K) of symmetric matrices, constants for autograd."""

    values: Tensor
    basis: Tensor


def eigen_of(matrix: Tensor) -> Eigen:
    """Of symmetric matrices (..., K, K). One that holds NaN or infinity is taken for the identity: a row of a batch does not stop the
    others."""
    matrix = matrix.detach()
    finite = matrix.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    return Eigen(*torch.linalg.eigh(torch.where(finite, matrix, torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))))


def square_root(matrix: Tensor, eigen: Eigen | None = None) -> Tensor:
    """The symmetric root of symmetric positive definite matrices (..., K, K), of which the eigenvalues and vectors may be known."""
    values, basis = eigen_of(matrix) if eigen is None else eigen
    roots = values.clamp_min(SMALLEST).sqrt()
    slopes = (roots[..., :, None] + roots[..., None, :]).reciprocal()
    root = (basis * roots[..., None, :]) @ basis.mT
    if not is_traced() and not needs_gradient(matrix):
        return root
    square = root @ root + (matrix - matrix.detach())
    for _ in range(ORDERS):
        root = root + basis @ ((basis.mT @ (square - root @ root) @ basis) * slopes) @ basis.mT
    return root
