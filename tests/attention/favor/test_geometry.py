"""Centred, balanced and optimally spread features against what the papers prove: nothing is biased, and the variance is the closed form."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from subquadratic.attention.favor import geometry as by_closed_form
from subquadratic.attention.favor import sharp
from subquadratic.attention.favor.features import orthogonal_gaussian, softmax_exponents
from subquadratic.attention.favor.geometry import Geometry, Moments, feature_bias, geometry_of, moments_of

WIDTH = 5
SCALE = WIDTH**0.25
OPTIONS = list(itertools.product(("positive", "optimal", "dense"), (False, True), (None, "channel", "full")))


def sample(size: float = 1.0, *, length: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Queries and keys (1, 1, N, K) with means, and correlated channels of different sizes; times K^(-1/4), which SCALE takes back."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
    q, k = torch.randn(2, 1, 1, length, WIDTH, generator=generator, dtype=torch.float64)
    return size * (q @ mix[0] + 0.4), size * (k @ mix[1] - 0.3)


def geometry(q: Tensor, k: Tensor, estimator: str, center: bool, balance: str | None) -> Geometry:
    return geometry_of(moments_of(q * SCALE), moments_of(k * SCALE), estimator=estimator, center=center, balance=balance)


def terms(w: Tensor, q: Tensor, k: Tensor, found: Geometry) -> tuple[Tensor, Tensor]:
    """Logarithm of each feature's term of the kernel (M,), for one query and one key (1, 1, 1, K), by what the ops are given; and z."""
    wide = sharp._widened(w, torch.float64)
    log_q, log_k = sharp._queries(q * SCALE, found), sharp._keys(k * SCALE, found)
    projected = softmax_exponents(log_q, wide)[1] + softmax_exponents(log_k, wide)[0]
    bias = feature_bias(w, found)
    center = torch.zeros_like(q) if found.query_mean is None else found.query_mean
    moved_q, moved_k = _moved(q, found.query_mean, found.query_map), _moved(k, found.key_mean, found.key_map)
    pull = _moved(center, None, found.query_map)
    det = 0.0
    if found.covariance is not None:
        size = found.covariance.shape[-1]
        det = torch.linalg.slogdet(found.covariance).logabsdet.item() * (WIDTH / size)
    shift = 0.0 if found.key_mean is None else (q * found.key_mean).sum()
    of_query = moved_q.square().sum() / 2 - pull.square().sum() / 2 - 0.5 - shift - det / 2
    return (projected + (0.0 if bias is None else bias[:, :, None])).flatten() - of_query, (moved_q + moved_k).flatten()


def _moved(x: Tensor, mean: Tensor | None, change: Tensor | None) -> Tensor:
    return sharp.apply(x if mean is None else x - mean, change)


@pytest.mark.parametrize(("estimator", "center", "balance"), OPTIONS)
def test_every_estimator_is_unbiased_with_the_second_moment_of_the_paper(estimator: str, center: bool, balance: str | None) -> None:
    q, k = sample(0.6)
    found = geometry(q, k, estimator, center, balance)
    w = torch.randn(300_000, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for n in range(4):
        one, other = q[:, :, n : n + 1], k[:, :, n : n + 1]
        logs, z = terms(w, one, other, found)
        kernel, estimates = (one * other).sum().exp(), logs.exp()
        assert abs(estimates.mean() - kernel) < 5 * estimates.std() / len(w) ** 0.5
        expected = second_moment(found.covariance, z)
        squares = (estimates / kernel).square()
        assert abs(squares.mean() - expected) < 5 * squares.std() / len(w) ** 0.5
        assert squares.std() / len(w) ** 0.5 < 0.2 * expected  # the comparison says something


def second_moment(covariance: Tensor | None, z: Tensor) -> float:
    """E[estimate^2] / kernel^2 of one feature: FAVOR# (2302.00787), Lemma 2, in terms of the covariance."""
    if covariance is None:
        return math.exp(z.square().sum())
    whole = covariance[0, 0] * torch.eye(WIDTH) if covariance.shape[-1] == 1 else covariance[0, 0]
    variance, basis = torch.linalg.eigh(whole)
    rest, along = 2 - 1 / variance, (z @ basis).square()
    return float((variance.log() / 2 - rest.log() / 2 + 2 * along / rest - along).sum().exp())


def test_optimal_features_have_the_parameters_of_the_paper() -> None:
    """2205.15317, section 3.3: rho, A, and the variance in terms of A."""
    q, k = sample(1.3)
    s2 = geometry(q, k, "optimal", False, None).covariance
    assert s2 is not None
    phi = (q[0, 0, :, None] + k[0, 0, None]).square().sum(-1).mean().item()  # over all pairs
    rho = (math.sqrt((2 * phi + WIDTH) ** 2 + 8 * WIDTH * phi) - 2 * phi - WIDTH) / (4 * phi)
    a = (1 - 1 / rho) / 8
    assert (1 - 4 * a) == pytest.approx(s2.item(), rel=1e-9)
    z = q[0, 0, 0] + k[0, 0, 0]
    paper = (1 - 4 * a) ** WIDTH * (1 - 8 * a) ** (-WIDTH / 2) * math.exp((2 * (1 - 4 * a) / (1 - 8 * a) - 1) * z.square().sum())
    assert second_moment(s2, z) == pytest.approx(paper, rel=1e-9)


@pytest.mark.parametrize("center", [False, True])
def test_each_refinement_lowers_the_mean_logarithm_of_the_second_moment(center: bool) -> None:
    q, k = sample(1.5)

    def cost(estimator: str, balance: str | None) -> float:
        found = geometry(q, k, estimator, center, balance)
        x, y = (_moved(q, found.query_mean, found.query_map)[0, 0], _moved(k, found.key_mean, found.key_map)[0, 0])
        pairs = (x[:, None] + y[None]).flatten(0, 1)
        return sum(math.log(second_moment(found.covariance, z)) for z in pairs[::7]) / len(pairs[::7])

    assert cost("dense", "full") < cost("dense", "channel") < cost("dense", None) < cost("optimal", None) < cost("positive", None)
    assert cost("optimal", "full") < cost("optimal", "channel") < cost("optimal", None)


def test_the_spread_is_the_best() -> None:
    f = torch.tensor([0.01, 0.3, 1.0, 5.0, 40.0], dtype=torch.float64)
    moments = Moments(torch.zeros(1, 5, dtype=torch.float64), torch.diag(f / 2))
    found = geometry_of(moments, moments, estimator="dense", center=True, balance=None).covariance
    assert found is not None

    def cost(s2: Tensor) -> Tensor:
        return s2.log() / 2 - (2 - 1 / s2).log() / 2 + 2 * f / (2 - 1 / s2)

    best = found.diagonal()
    for factor in (0.99, 1.01):
        assert (cost(best * factor) > cost(best)).all()


def test_balanced_queries_and_keys_have_one_second_moment_and_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_closed_form, "RIDGE", 0.0)
    q, k = sample(1.0)
    found = geometry(q, k, "positive", True, "full")
    x, y = _moved(q, found.query_mean, found.query_map), _moved(k, found.key_mean, found.key_map)
    torch.testing.assert_close(moments_of(x).covariance, moments_of(y).covariance, rtol=1e-6, atol=1e-6)
    centred = (q - q.mean(2, keepdim=True)) @ (k - k.mean(2, keepdim=True)).mT
    torch.testing.assert_close(x @ y.mT, centred)


def test_moments_are_those_of_real_tokens() -> None:
    q, _ = sample(1.0, length=9)
    mask = torch.tensor([[True, False, True, True, False, True, True, False, True]])
    spoilt = q.masked_fill(~mask[:, None, :, None], torch.nan)
    for found, true in zip(moments_of(spoilt, mask), moments_of(q[:, :, mask[0]]), strict=True):
        torch.testing.assert_close(found, true)


def test_orthogonal_features_are_unbiased_too() -> None:
    q, k = sample(0.6)
    found = geometry(q, k, "dense", True, "full")
    generator = torch.Generator().manual_seed(2)
    w = torch.cat([orthogonal_gaussian(WIDTH, WIDTH, generator=generator, dtype=torch.float64) for _ in range(20_000)])
    one, other = q[:, :, :1], k[:, :, :1]
    estimates = terms(w, one, other, found)[0].exp().unflatten(0, (-1, WIDTH)).mean(dim=-1)
    assert abs(estimates.mean() - (one * other).sum().exp()) < 5 * estimates.std() / len(estimates) ** 0.5
