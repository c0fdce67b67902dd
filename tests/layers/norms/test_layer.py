"""Norms of vectors that may be zero, as padding is: values, and derivatives of the first and second order."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from subquadratic import LanguageModel, SequenceClassifier
from subquadratic.compat.performer_pytorch.wrappers import PreScaleNorm
from subquadratic.core.backend import use_backend
from subquadratic.core.vector_length import vector_length
from subquadratic.layers.multi_head import QueryKeyNorm
from subquadratic.layers.norms.layer import ScaleNorm
from subquadratic.models import (
    BackboneConfig,
    FastformerConfig,
    FeedbackTransformerConfig,
    LinformerConfig,
    PerformerConfig,
    TransformerConfig,
)

NORMS: dict[str, Callable[[], nn.Module]] = {
    "scale": lambda: ScaleNorm(6),
    "query and key": lambda: QueryKeyNorm(2, 6),
    "published": lambda: PreScaleNorm(6, nn.Identity()),
    "published, of no epsilon": lambda: PreScaleNorm(6, nn.Identity(), eps=1e-300),
}
SMALL = dict(dim=16, depth=1, heads=2)
CONFIGS: dict[str, BackboneConfig] = {
    "performer, qk_norm": PerformerConfig(**SMALL, qk_norm=True),
    "performer, local heads": PerformerConfig(**SMALL, qk_norm=True, local_heads=1, local_window=3),
    "performer, efficient": PerformerConfig(**SMALL, qk_norm=True, kernel="efficient", positions=None),
    "performer, bidirectional": PerformerConfig(**SMALL, qk_norm=True, causal=False, norm="scale"),
    "performer, scale": PerformerConfig(**SMALL, norm="scale", token_shift=True),
    "transformer, qk_norm": TransformerConfig(**SMALL, qk_norm=True),
    "transformer, window": TransformerConfig(**SMALL, qk_norm=True, window=3, norm="scale"),
    "linformer, scale": LinformerConfig(**SMALL, max_length=20, slots=3, norm="scale"),
    "fastformer, scale": FastformerConfig(**SMALL, norm="scale"),
    "feedback, scale": FeedbackTransformerConfig(**SMALL, norm="scale"),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_twice_differentiable_at_zero(name: str) -> None:
    norm = NORMS[name]().double()
    if name.endswith("no epsilon"):  # at zero a difference quotient sees the jump
        x = torch.zeros(1, 2, 3, 6, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(norm(x).sum(), x, create_graph=True)
        second = torch.autograd.grad(first.sum(), (x, *norm.parameters()))
        assert first.isfinite().all() and all(y.isfinite().all() for y in second)
        return
    x = torch.randn(1, 2, 3, 6, dtype=torch.float64)
    x[0, :, 0] = 0.0
    given = (x.requires_grad_(), *norm.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), given, eps=1e-8)
    assert torch.autograd.gradgradcheck(lambda x, *_: norm(x), given, eps=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_are_those_of_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, 33, dtype=dtype) * torch.logspace(-9, 9, 5, dtype=dtype)[:, None]
    mine, true = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = vector_length(mine, least=1e-5), true.norm(dim=-1, keepdim=True).clamp_min(1e-5)
    torch.testing.assert_close(found, expected)
    found.log().sum().backward()
    expected.log().sum().backward()
    torch.testing.assert_close(mine.grad, true.grad)


def _padded(shape: tuple[int, int]) -> list[Tensor]:
    left, whole, holes = (torch.ones(shape, dtype=torch.bool) for _ in range(3))
    left[0, :3], whole[0], holes[1, 2::3] = False, False, False
    return [left, whole, holes]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("head", [LanguageModel, SequenceClassifier])
def test_second_derivatives_are_right_where_there_is_padding(name: str, backend: str, head: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = head(CONFIGS[name], vocab_size=7, max_length=9, **({"num_classes": 3} if head is SequenceClassifier else {}))
    tokens, parameters = torch.randint(0, 7, (2, 9)), [x for x in model.parameters() if x.requires_grad]
    for parameter in parameters:  # also where the published models start at zero
        nn.init.normal_(parameter, std=0.1) if parameter.dim() > 1 else None
    directions = [torch.randn_like(x) for x in parameters]

    def slope(mask: Tensor, differentiate: bool) -> Tensor:
        loss = model(tokens, mask=mask).square().sum()
        found = torch.autograd.grad(loss, parameters, create_graph=differentiate, allow_unused=True)
        return sum((x * y).sum() for x, y in zip(found, directions, strict=True) if x is not None)

    for mask in _padded((2, 9)):
        with use_backend(backend):
            second = torch.autograd.grad(slope(mask, True), parameters, allow_unused=True)
        assert all(x.isfinite().all() for x in second if x is not None)
        along = sum((x * y).sum() for x, y in zip(second, directions, strict=True) if x is not None)
        model.double()
        with use_backend("torch"):
            ahead, behind = _moved(parameters, directions, 1e-6, lambda mask=mask: slope(mask, False))
        model.float()
        torch.testing.assert_close(along, ((ahead - behind) / 2e-6).float(), rtol=1e-2, atol=1e-2)


def _moved(parameters: list[nn.Parameter], directions: list[Tensor], step: float, run: Callable[[], Tensor]) -> list[Tensor]:
    """What ``run`` gives with the parameters moved along directions by a step, and by one back."""
    found = []
    for factor in (step, -step):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += factor * direction
        found.append(run())
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data -= factor * direction
    return found
