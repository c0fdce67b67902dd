"""Law 7: torch.compile(fullgraph=True) of forward and backward, but for the Feedback Transformer's outer loop; torch.export in eval
mode."""

import pytest
import torch

import subquadratic as sq

from .matrix import BACKBONES, SMALL, configs, inputs


def basic(*, looping: bool, **options: int) -> list[object]:
    """One causal and one bidirectional configuration per backbone: the graph is what differs. ``looping``: the Feedback Transformer too."""
    found = []
    for name, (kind, needed, _) in BACKBONES.items():
        for causal in (True, False):
            if (name == "feedback_transformer" and not looping) or (kind.causal_only and not causal):
                continue
            found.append(pytest.param(kind(**{**SMALL, **needed, **options, "causal": causal}), id=f"{name}-{causal}"))
    return found


def check_compiled(config: sq.BackboneConfig) -> None:
    torch._dynamo.reset()
    backbone = config.build()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    x = inputs(2, 12, config.dim, dtype=torch.float32).requires_grad_()
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :3] = False
    for given in (None, mask):
        backbone.zero_grad()
        expected = backbone(x, mask=given)
        expected.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
        backbone.zero_grad()
        output = compiled(x, mask=given)
        output.square().sum().backward()
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        for name, parameter in backbone.named_parameters():
            if name in gradients:
                torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", basic(looping=False, depth=1))
def test_compiles_whole(config: sq.BackboneConfig) -> None:
    """One layer: the second is compiled as the first, and takes as long."""
    check_compiled(config)


def test_two_layers_compile_whole() -> None:
    check_compiled(sq.PerformerConfig(**SMALL, features=12))


@pytest.mark.slow
@pytest.mark.parametrize("config", [param for param in configs() if "feedback" not in str(param.id)])
def test_every_option_compiles_whole(config: sq.BackboneConfig) -> None:
    check_compiled(config)


@pytest.mark.parametrize("config", basic(looping=True))
def test_exports(config: sq.BackboneConfig) -> None:
    model = sq.LanguageModel(config, vocab_size=13, max_length=40).eval()
    x = torch.randint(0, 13, (2, 12))
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)
