"""The random features of FAVOR+ against the paper: Lemma 2 (variance), Theorem 2 (orthogonality helps), and their exact properties."""

import math

import pytest
import torch

from subquadratic.attention.favor.features import default_features, orthogonal_gaussian, softmax_exponents

WIDTH = 16


def pair(length_of_sum: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y in R^16 with |x + y|^2 as asked."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, WIDTH, generator=generator, dtype=torch.float64)
    factor = math.sqrt(length_of_sum) / (x + y).norm()
    return x * factor, y * factor


def estimates(projections: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean over M features of exp(w.x - |x|^2/2) exp(w.y - |y|^2/2), for projections (draws, M, K)."""
    return (projections @ (x + y) - (x.square().sum() + y.square().sum()) / 2).exp().mean(dim=-1)


@pytest.mark.parametrize("length", [0.1, 0.5, 1.0])
def test_unbiased_with_the_variance_of_lemma_2(length: float) -> None:
    x, y = pair(length)
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(400_000, 1, WIDTH, generator=generator, dtype=torch.float64)
    found = estimates(gaussian, x, y)
    kernel = (x @ y).exp()
    assert abs(found.mean() / kernel - 1) < 5 * found.std() / kernel / 400_000**0.5
    variance = ((x + y).square().sum()).exp() * kernel**2 * (1 - (-(x + y).square().sum()).exp())  # Lemma 2 with m = 1
    assert 0.95 < (found - kernel).square().mean() / variance < 1.05


@pytest.mark.parametrize("scaling", [0])
@pytest.mark.parametrize("length", [0.33, 1.0])
def test_orthogonal_features_are_unbiased_and_vary_less_by_theorem_2(length: float, scaling: int) -> None:
    x, y = pair(length)
    generator = torch.Generator().manual_seed(1)
    draws = 8000
    projections = torch.stack(
        [orthogonal_gaussian(WIDTH, WIDTH, scaling=scaling, generator=generator, dtype=torch.float64) for _ in range(draws)]
    )
    found, kernel = estimates(projections, x, y), (x @ y).exp()
    assert abs(found.mean() / kernel - 1) < 5 * found.std() / kernel / draws**0.5
    square = (x + y).square().sum()
    independent = square.exp() * kernel**2 * (1 - (-square).exp()) / WIDTH
    gap = 2 * (WIDTH - 1) / (WIDTH * (WIDTH + 2)) * (kernel - (-(x.square().sum() + y.square().sum()) / 2).exp()) ** 2
    assert (found - kernel).square().mean() < (independent - gap) * 1.05
    assert (found - kernel).square().mean() < independent


def test_blocks_are_orthogonal_with_the_asked_norms() -> None:
    projection = orthogonal_gaussian(40, WIDTH, scaling=1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert projection.shape == (40, WIDTH)
    for block in projection.split(WIDTH):
        torch.testing.assert_close(block @ block.T, WIDTH * torch.eye(len(block), dtype=torch.float64))
    free = orthogonal_gaussian(4000, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(free.square().sum(dim=-1).mean() / WIDTH - 1) < 0.05
    assert free.norm(dim=-1).std() > 0.5  # chi(16) has a standard deviation of 0.70


def test_the_same_generator_gives_the_same_projection() -> None:
    first, second = (orthogonal_gaussian(20, 8, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_exponents_are_the_papers() -> None:
    x, projection = torch.randn(1, 1, 3, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    exponents, projected = softmax_exponents(x, projection)
    scaled = x[0, 0, 1] / 8**0.25
    torch.testing.assert_close(exponents[0, 0, 1], projection @ scaled - scaled.square().sum() / 2)
    torch.testing.assert_close(projected[0, 0, 1], projection @ scaled)


def test_defaults_and_ranges() -> None:
    assert default_features(64) == int(64 * math.log(64)) == 266
    assert default_features(1) == 1
    with pytest.raises(ValueError, match="scaling must be one of 0, 1, got 2"):
        orthogonal_gaussian(4, 4, scaling=2)
    with pytest.raises(ValueError, match="features must be an integer of at least 1, got 0"):
        orthogonal_gaussian(0, 4)
