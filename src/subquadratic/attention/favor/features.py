"""Random features of the softmax kernel (Performer, arXiv 2009.14794, sections 2.3-2.4): FAVOR+ without the attention.

exp(x . y) = E_w[exp(w . x - |x|^2 / 2) exp(w . y - |y|^2 / 2)] for Gaussian w. Everything here is kept as exponents, so that whoever
uses them can subtract a stabiliser before exp.

Axes: B batch, H heads, N length, K head width, M random features.
"""

import math

import torch
from torch import Tensor

from ...core.errors import require_choice, require_positive


def default_features(width: int) -> int:
    """M = floor(K ln K), the paper's Theta(K log K) with constant 1 (at least 1)."""
    return max(1, int(width * math.log(width)))


def orthogonal_gaussian(
    features: int,
    width: int,
    *,
    scaling: int = 0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Rows of Gaussian direction, orthogonal within blocks of ``width`` rows (section 2.4, "orthogonal random features").

    Args:
        features: M, number of rows.
        width: K.
        scaling: 0 gives row norms drawn from chi(K), as a Gaussian row has (unbiased); 1 fixes them to sqrt(K).
        generator: a CPU generator; the same one gives the same matrix on every device. None draws from the global CPU state.
        device, dtype: of the result; drawn in float64 on the CPU.

    Returns:
        (M, K).

    Raises:
        ValueError: if ``features`` or ``width`` is below 1, or ``scaling`` is not 0 or 1.
    """
    require_positive(features=features, width=width)
    require_choice("scaling", scaling, (0, 1))
    blocks = []
    for start in range(0, features, width):
        gaussian = torch.randn(width, width, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(gaussian)
        q = q * r.diagonal().sign()  # makes q uniform over the orthogonal group, whatever the signs that QR chose
        blocks.append(q[: min(width, features - start)])
    directions = torch.cat(blocks)
    if scaling == 0:
        norms = torch.randn(features, width, generator=generator, dtype=torch.float64).norm(dim=-1, keepdim=True)
    else:
        norms = torch.full((features, 1), math.sqrt(width), dtype=torch.float64)
    return (norms * directions).to(device=device, dtype=dtype or torch.get_default_dtype())


def softmax_exponents(x: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the positive softmax features (Lemma 1), without the constant 1 / sqrt(M).

    Args:
        x: (B, H, N, K) queries or keys, in float32 or float64; scaled by K^(-1/4) here, so that products estimate exp(q . k / sqrt(K)).
        projection: (M, K).

    Returns:
        ``w . x - |x|^2 / 2`` and ``w . x``, both (B, H, N, M).
    """
    scaled = x * x.shape[-1] ** -0.25
    projected = scaled @ projection.to(x.dtype).T
    return projected - scaled.square().sum(dim=-1, keepdim=True) / 2, projected


def exponents_of(x: Tensor, projection: Tensor) -> Tensor:
    """The first of what :func:`softmax_exponents` gives, from a projection that is times K^(-1/4) already: (B, H, N, K) -> (B, H, N, M)."""
    return x @ projection.T - x.square().sum(dim=-1, keepdim=True) * (x.shape[-1] ** -0.5 / 2)
