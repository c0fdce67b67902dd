"""What makes random features of the softmax kernel precise for queries and keys that are far from the origin or unlike in their channels.

Three changes, none of which moves what the features estimate, the weights of softmax attention:

center: softmax does not change when all keys are shifted by one vector, and exp(q.k) = exp((q - c).k) exp(c.k), whose second factor belongs
    to a key alone.
balance: q.k = (q A).(k A^-T) for every invertible A, here the one that gives queries and keys the same second moments.
estimator: exp(q.k) = E_w[exp(w.(q + k) - |q|^2/2 - |k|^2/2) N(w; 0, I) / N(w; 0, S)] for w ~ N(0, S): importance sampling. A covariance S
    wider than the identity has less variance. For S = s^2 I these are optimal positive features (arXiv 2205.15317), whose A is
    (1 - s^2) / 4; for a matrix dense-exponential ones (FAVOR#, arXiv 2302.00787), symmetric without balance, asymmetric with it.

With z = q + k, the logarithm of the second moment of an estimate is, summed over the eigenvectors of S,

    log s - log(2 - 1/s^2) / 2 + 2 z^2 / (2 - 1/s^2)

but for what does not depend on S. In the mean over z it is least at

    s^2 = (3 + 2 f + sqrt((3 + 2 f)^2 - 8)) / 4,   f = E[z^2],

the closed form of 2205.15317 (section 3.3) where all eigenvectors share one s.

Vectors are rows. Axes: B batch, H heads, N length, K head width, M features; "..." is (B, H), or (H,) where all rows of a batch share it.
Means and moments are of queries and keys times K^(-1/4).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.numerics import has_float64
from .roots import Eigen, eigen_of, square_root

RIDGE = 1e-3  # added to second moments, relative to their mean over channels: a short sequence spans few directions
DIGITS = 64  # units of rounding of the largest eigenvalue, below which the others are nothing but rounding
TINY = 1e-10  # the same of queries or keys that are all alike


class Moments(NamedTuple):
    """Mean and covariance of queries or keys of a head."""

    mean: Tensor  # (..., 1, K)
    covariance: Tensor  # (..., K, K)


class Geometry(NamedTuple):
    """Where the features of a head are; None: nothing is changed. A map with one row multiplies channels, another is a matrix."""

    query_mean: Tensor | None  # (..., 1, K), subtracted from queries
    key_mean: Tensor | None  # (..., 1, K), subtracted from keys
    query_map: Tensor | None  # (..., 1 or K, K), A
    key_map: Tensor | None  # (..., 1 or K, K), A^-T
    covariance: Tensor | None  # (..., K, K) or (..., 1, 1), S
    stretch: Tensor | None  # its root


def moments_of(x: Tensor, mask: Tensor | None = None) -> Moments:
    """Of real tokens, over the length.

    Args:
        x: (B, H, N, K), not yet times K^(-1/4), which the moments are.
        mask: (B, N) bool, True = real token.
    """
    if mask is None:
        count: Tensor | int = max(x.shape[2], 1)
        mean = x.sum(dim=2, keepdim=True) / count
        centred = x - mean
    else:
        missing = ~mask[:, None, :, None]
        x = x.masked_fill(missing, 0.0)
        count = mask.sum(dim=-1).clamp_min(1).to(x.dtype)[:, None, None, None]
        mean = x.sum(dim=2, keepdim=True) / count
        centred = (x - mean).masked_fill(missing, 0.0)
    scale = x.shape[-1] ** -0.25
    return Moments(mean * scale, centred.mT @ centred * (scale**2 / count))


def geometry_of(queries: Moments, keys: Moments, *, estimator: str, center: bool, balance: str | None) -> Geometry:
    """The closed forms, from the moments of queries and keys, which are taken to be independent.

    In float64, given in the dtype of the moments. A sequence with fewer tokens than channels has moments whose eigenvalues are RIDGE apart
    from the largest; those of their product are RIDGE^2 apart, which is what float32 rounds.
    """
    given = queries.mean.dtype
    exact = torch.float64 if has_float64(queries.mean.device) else given
    queries, keys = (Moments(*(x.to(exact) for x in moments)) for moments in (queries, keys))
    q, k = _second_moment(queries, center), _second_moment(keys, center)
    query_map, key_map = _balanced(q, k, balance)
    covariance = stretch = None
    if estimator != "positive":
        sums = mapped_moment(q, query_map) + mapped_moment(k, key_map)
        if not center:
            cross = apply(queries.mean, query_map).mT @ apply(keys.mean, key_map)
            sums = sums + cross + cross.mT
        covariance, stretch = _widened(sums, dense=estimator == "dense")
    parts = queries.mean if center else None, keys.mean if center else None, query_map, key_map, covariance, stretch
    return Geometry(*(None if x is None else x.to(given) for x in parts))


def apply(x: Tensor, change: Tensor | None) -> Tensor:
    """(..., N, K) times a map of a :class:`Geometry`."""
    if change is None:
        return x
    return x * change if change.shape[-2] == 1 else x @ change


def combined(first: Tensor | None, second: Tensor | None, x: Tensor) -> Tensor:
    """Both maps, one after the other, as one matrix for rows like those of ``x``."""
    both = apply(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), first)
    return apply(both, second)


def mapped_moment(moment: Tensor, change: Tensor | None) -> Tensor:
    """The second moment (..., K, K) of what a map makes."""
    return moment if change is None else apply(apply(moment, change).mT, change)


def feature_bias(projection: Tensor, geometry: Geometry) -> Tensor | None:
    """log N(w; 0, I) / N(w; 0, S) of w = the projection's rows times S^(1/2), but for a constant: (..., M). None: all are alike."""
    if geometry.covariance is None:
        return None
    projection = projection.to(geometry.covariance.dtype)
    wide = (apply(projection, geometry.covariance) * projection).sum(dim=-1)
    return (projection.square().sum(dim=-1) - wide) / 2


def _second_moment(moments: Moments, center: bool) -> Tensor:
    """About the origin, which is the mean itself where things are centred."""
    return moments.covariance if center else moments.covariance + moments.mean.mT @ moments.mean


def _balanced(q: Tensor, k: Tensor, balance: str | None) -> tuple[Tensor | None, Tensor | None]:
    """A and A^-T with A^T q A = A^-1 k A^-T."""
    if balance is None:
        return None, None
    q, k = _ridged(q), _ridged(k)
    if balance == "channel":
        ratio = (_diagonal(k) / _diagonal(q)).sqrt().sqrt()[..., None, :]
        return ratio, ratio.reciprocal()
    lower = torch.linalg.cholesky_ex(q).L  # q = L L^T
    product = lower.mT @ k @ lower
    values, basis = eigen_of(product)
    # What rounding leaves of the smallest is no more than that; every A keeps q.k, if it can be inverted well.
    values = values.clamp_min(DIGITS * torch.finfo(values.dtype).eps * values[..., -1:])
    quarter = square_root(square_root(product, Eigen(values, basis)), Eigen(values.clamp_min(0).sqrt(), basis))
    # A = L^-T P^(1/4), of P = L^T k L: both moments become P^(1/2)
    return torch.linalg.solve_triangular(lower.mT, quarter, upper=True), lower @ torch.linalg.inv_ex(quarter).inverse


def _widened(sums: Tensor, *, dense: bool) -> tuple[Tensor, Tensor]:
    """S and its root, from the second moment of q + k."""
    if not dense:
        square = 3 + 2 * _diagonal(sums).mean(dim=-1)[..., None, None]
        variance = (square + (square.square() - 8).sqrt()) / 4
        return variance, variance.sqrt()
    one = torch.eye(sums.shape[-1], dtype=sums.dtype, device=sums.device)
    values, basis = eigen_of(sums)
    values, under = values.clamp_min(0), 1 + 12 * values + 4 * values.square()
    covariance = (3 * one + 2 * sums + square_root(one + 12 * sums + 4 * sums @ sums, Eigen(under, basis))) / 4
    return covariance, square_root(covariance, Eigen((3 + 2 * values + under.sqrt()) / 4, basis))


def _ridged(moment: Tensor) -> Tensor:
    return moment + torch.diag_embed((RIDGE * _diagonal(moment).mean(dim=-1, keepdim=True) + TINY).expand(moment.shape[:-1]))


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)
