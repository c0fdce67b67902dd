"""Law 7: torch.compile(fullgraph=True) of forward and backward, but for the Feedback Transformer's outer loop; torch.export in eval
mode."""

import pytest
import torch

import subquadratic as sq

from .matrix import BACKBONES, SMALL, configs, inputs


def basic(*, looping: bool, **options: int) -> list[object]:
    """A configuration per backbone, bidirectional where it can be. ``looping``: the Feedback Transformer too."""
    found = []
    for name, (kind, needed, _) in BACKBONES.items():
        if looping or name != "feedback_transformer":
            found.append(pytest.param(kind(**{**SMALL, **needed, **options, "causal": kind.causal_only}), id=name))
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
    """One layer: the second is compiled as the first, and takes as long. Of causal ones the Performer is compiled below, all are exported
    with open axes but for the Perceiver AR and the Feedback Transformer, which are here; the rest is slow."""
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


OPEN = {"dim": 16, "depth": 1, "heads": 2}
OPEN_CONFIGS = {
    "performer": (sq.PerformerConfig(**OPEN, features=4), ()),
    "fastformer": (sq.FastformerConfig(**OPEN), ()),
    "linformer": (sq.LinformerConfig(**OPEN, max_length=1024, slots=4), ()),
    "gated-linear": (sq.GatedLinearConfig(**OPEN), ()),
    "transformer": (sq.TransformerConfig(**OPEN), ()),
    "window": (sq.TransformerConfig(**OPEN, window=5), pytest.mark.slow),
    "performer-local": (sq.PerformerConfig(**OPEN, features=4, local_heads=1, local_window=3), pytest.mark.slow),
    "performer-bidirectional": (sq.PerformerConfig(**OPEN, causal=False), pytest.mark.slow),
    "fastformer-bidirectional": (sq.FastformerConfig(**OPEN, causal=False), pytest.mark.slow),
    "linformer-bidirectional": (sq.LinformerConfig(**OPEN, max_length=1024, slots=4, causal=False), pytest.mark.slow),
    "transformer-bidirectional": (sq.TransformerConfig(**OPEN, causal=False), pytest.mark.slow),
}


@pytest.mark.parametrize("config", [pytest.param(config, id=name, marks=marks) for name, (config, marks) in OPEN_CONFIGS.items()])
@torch.no_grad()
def test_exports_with_open_batch_and_length(config: sq.BackboneConfig) -> None:
    model = sq.LanguageModel(config, vocab_size=13).eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=model.max_length)
    axes = {0: batch, 1: length}
    program = torch.export.export(
        model,
        (torch.zeros(3, 301, dtype=torch.int64),),
        {"mask": torch.ones(3, 301, dtype=torch.bool)},
        dynamic_shapes={"tokens": axes, "mask": axes},
        prefer_deferred_runtime_asserts_over_guards=True,  # it cannot see that (length // 64 + 3) * 64 is more than length
    )
    exported = program.module()
    torch.manual_seed(0)
    for rows, size in ((1, 1), (2, 2), (5, 31), (2, 64), (1, 128), (3, 211), (1, 1024)):
        tokens, mask = torch.randint(0, 13, (rows, size)), torch.rand(rows, size) > 0.3
        torch.testing.assert_close(exported(tokens, mask=mask), model(tokens, mask=mask), rtol=1e-4, atol=1e-5)
