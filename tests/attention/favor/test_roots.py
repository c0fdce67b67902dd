"""Square roots of matrices: what they are, and their derivatives where those of eigenvectors do not exist."""

import pytest
import torch
from torch.func import jvp, vmap

from subquadratic.attention.favor.roots import square_root


def positive(*eigenvalues: float) -> torch.Tensor:
    basis = torch.linalg.qr(torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    return (basis * torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.mT


@pytest.mark.parametrize("eigenvalues", [(0.1, 1.0, 2.0, 7.0), (0.5, 0.5, 0.5, 3.0), (2.0, 2.0, 2.0, 2.0)])
def test_the_square_and_all_derivatives(eigenvalues: tuple[float, ...]) -> None:
    x = positive(*eigenvalues).requires_grad_()

    def root(y: torch.Tensor) -> torch.Tensor:
        return square_root((y + y.mT) / 2)

    torch.testing.assert_close(root(x) @ root(x), x)
    assert torch.autograd.gradcheck(root, x)
    assert torch.autograd.gradgradcheck(root, x)
    direction = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6 * direction
    found = jvp(root, (x.detach(),), (direction,))[1]
    torch.testing.assert_close(found, (root(x + step) - root(x - step)).detach() / 2e-6, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(vmap(root)(x), root(x))


def test_a_row_with_nan_leaves_the_others() -> None:
    x = positive(1.0, 2.0, 3.0, 4.0)
    spoilt = x.clone()
    spoilt[0, 1, 2] = torch.nan
    torch.testing.assert_close(square_root(spoilt)[1], square_root(x)[1])
