"""FAVOR+ spelled out in float64, what the layers' code differs from it by, and the error that theory gives it.

Axes: B batch, H heads, N length, K head width, M features, Q queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...attention.favor import features as favor
from ...attention.favor.formula import causal_linear_attention, read_features, summarise_features
from ...attention.favor.mixing import FavorHeads
from ...attention.favor.sharp import favor_attention
from ...benchmark.work import relative_error
from ...core.backend import takes_native
from ..claim import Setting
from .worst import largest

WIDTH, FEATURES = 16, 256
LENGTH = 1500  # more than a block of positions, and no multiple of one


def weights(queries: Tensor, keys: Tensor, projection: Tensor, *, estimator: str = "positive", causal: bool = False) -> Tensor:
    """What random features put for softmax(q k^T / sqrt(K)): (..., N, K) twice and (M, K) -> (..., N, N), in float64.

    exp(x.y) is the mean over w of exp(w.x - |x|^2 / 2) exp(w.y - |y|^2 / 2), x and y being q and k times K^(-1/4): nothing is stabilised,
    and all pairs are formed. With "optimal" features w has the variance s^2 of 2205.15317, and a weight for that.
    """
    x, y = (part.double() * part.shape[-1] ** -0.25 for part in (queries, keys))
    w = projection.double()
    rest: Tensor | float = 0.0
    if estimator == "optimal":
        sums = x.square().mean(dim=(-1, -2)) + y.square().mean(dim=(-1, -2)) + 2 * (x.mean(dim=-2) * y.mean(dim=-2)).mean(dim=-1)
        root = 3 + 2 * sums[..., None, None]
        variance = (root + (root.square() - 8).sqrt()) / 4
        rest = (1 - variance) / 2 * w.square().sum(dim=-1)  # log N(w; 0, I) / N(w; 0, s^2 I), but for a constant
        of_x, of_y = (variance.sqrt() * (part @ w.T) for part in (x, y))
    else:
        of_x, of_y = x @ w.T, y @ w.T
    of_x, of_y = of_x - x.square().sum(dim=-1, keepdim=True) / 2, of_y - y.square().sum(dim=-1, keepdim=True) / 2
    kernel = (of_x + rest).exp() @ of_y.exp().mT
    kernel = kernel.tril() if causal else kernel
    return kernel / kernel.sum(dim=-1, keepdim=True)


def heads_with(projection: Tensor, estimator: str = "positive", *, heads: int = 1) -> FavorHeads:
    """What a layer of so many heads has between its maps, with this projection (M, K)."""
    features, width = projection.shape
    found = FavorHeads(width, heads=heads, features=features, estimator=estimator, generator=torch.Generator())
    found.projection = projection
    return found


def attend(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *, estimator: str = "positive") -> Tensor:
    """Bidirectional FAVOR+ as layers compute it in float32, by the C kernels where there are some: (B, H, N, K), in float64."""
    heads = heads_with(projection.float(), estimator)
    return heads(queries.float(), keys.float(), values.float(), causal=False).double()


@torch.no_grad()
def differences(setting: Setting, size: float, *, estimator: str = "positive") -> dict[str, float]:
    """Relative RMS difference of the package's code from `weights`, in float64 and in float32, for Gaussian queries and keys of standard
    deviation `size`: the largest of the bidirectional and the causal form, as a layer has them, as an operation, and as the formula that
    stands in for it where a compiler looks on."""
    generator = torch.Generator().manual_seed(20_000 + setting.seed)
    length = LENGTH if setting.effort >= 1 else 200
    q, k, v = torch.randn(3, 1, 2, length, WIDTH, generator=generator, dtype=torch.float64)
    projection = favor.orthogonal_gaussian(FEATURES, WIDTH, generator=generator, dtype=torch.float64)
    q, k = q * size, k * size
    found: dict[str, list[float]] = {"float64": [], "float32": []}
    for causal in (False, True):
        exact = weights(q, k, projection, estimator=estimator, causal=causal) @ v
        for name, values in found.items():
            dtype = getattr(torch, name)
            given = q.to(dtype), k.to(dtype), v.to(dtype)
            heads = heads_with(projection.to(dtype), estimator, heads=q.shape[1])
            heads.fit_(*given, causal=causal)
            outputs = [heads(*given, causal=causal)]
            if not causal:
                outputs.append(favor_attention(*given, heads.projection, estimator=estimator))
            if estimator == "positive":
                outputs.append(_stand_in(*given, heads.projection, causal=causal))
            values += [relative_error(output, exact) for output in outputs]
    return {name: largest(values) for name, values in found.items()}


def _stand_in(queries: Tensor, keys: Tensor, values: Tensor, projection: Tensor, *, causal: bool) -> Tensor:
    log_queries, log_keys = (favor.softmax_exponents(x, projection)[0] for x in (queries, keys))
    if not causal:
        return read_features(log_queries, summarise_features(log_keys, values))
    return causal_linear_attention((log_queries - log_queries.amax(dim=-1, keepdim=True)).exp(), log_keys, values)[0]


def difference_of(heads: FavorHeads, *, causal: bool) -> float:
    """The same of what a layer has between its maps."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 300, heads.width, generator=generator) / 2
    with torch.no_grad():
        return relative_error(heads(q, k, v, causal=causal), weights(q, k, heads.projection, causal=causal) @ v.double())


def expected_error(queries: Tensor, keys: Tensor, features: int, *, count: int = 128) -> float:
    """Mean squared error over mean square of attention by M independent positive features, (N, K) twice: to first order in 1 / M, in the
    mean over Gaussian values, of the first `count` queries.

    The error of an output is then the mean over M features of sum_j (f_j - p_j sum_l f_l) v_j, where f_j is the feature's estimate of
    exp(x.y_j) over the sum D of all of them, and p the softmax. E[f_j f_l] = exp(|x|^2 + 2 x.y_j + 2 x.y_l + y_j.y_l) / D^2.
    """
    x, y = (part.double() * part.shape[-1] ** -0.25 for part in (queries[:count], keys))
    scores = x @ y.T  # (Q, N)
    p = scores.softmax(dim=-1)
    once = (2 * scores).exp() / scores.exp().sum(dim=-1, keepdim=True)
    pairs = (y @ y.T).exp()
    with_all = once * (once @ pairs)
    own = (once.square() * pairs.diagonal()).sum(dim=-1)
    squares = own - 2 * (p * with_all).sum(dim=-1) + p.square().sum(dim=-1) * with_all.sum(dim=-1)
    found = x.square().sum(dim=-1).exp() * squares
    return float(found.sum() / p.square().sum() / features)


def computed() -> str:
    """What float32 is computed by here."""
    return "the C kernels" if takes_native(None, torch.zeros(1)) else "PyTorch"
