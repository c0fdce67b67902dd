"""Whole models with a reversible stack, against the same streams under ordinary autograd."""

import pytest
import torch
from tests.laws.matrix import configs, inputs

import subquadratic as sq
from subquadratic.layers import residual
from subquadratic.layers.reversible import _plain

REVERSIBLE = [param for param in configs() if param.values[0].reversible]


def gradients(backbone: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor, calls: int) -> list[torch.Tensor]:
    backbone.zero_grad()
    torch.manual_seed(3)
    sum(backbone(x, mask=mask).square().sum() for _ in range(calls)).backward()
    return [parameter.grad.clone() for parameter in backbone.parameters()]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("config", REVERSIBLE)
def test_frozen_inputs_two_forwards_one_backward(config: sq.BackboneConfig, calls: int, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = config.replace(dropout=0.2, attention_dropout=0.2).build().double().train(mode == "train")
    x = inputs(2, 12, config.dim)  # needs no gradient: every parameter must still get its own
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :4] = False
    found = gradients(backbone, x, mask, calls)
    monkeypatch.setattr(residual, "run_reversible", _plain)
    for a, b in zip(found, gradients(backbone, x, mask, calls), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_memory_does_not_grow_with_depth() -> None:
    kept = {}
    for depth in (2, 12):
        backbone = sq.Performer(sq.PerformerConfig(dim=16, depth=depth, heads=2, features=12, reversible=True))
        numbers = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal numbers
            numbers += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            backbone(torch.randn(1, 64, 16))
        kept[depth] = numbers
    assert kept[2] == kept[12]
