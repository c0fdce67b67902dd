"""A Feedback Transformer as one operation and segment by segment: the same numbers, and which of the two a call takes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from subquadratic.models.feedback_transformer import backbone as feedback_transformer
from subquadratic.models.feedback_transformer.backbone import FeedbackTransformer, FeedbackTransformerConfig
from subquadratic.models.feedback_transformer.fast import runs_fast

OPTIONS = {
    "paper": {},
    "maps per layer": {"share_key_value": False},
    "last hidden": {"keep_last_hidden": True},
    "no bias": {"relative_bias": False},
    "scale": {"norm": "scale"},
    "rezero": {"norm": "rezero"},
    "plain feed-forward": {"ff_glu": False, "ff_chunks": 2},
    "truncated": {"detach_every": 4},
    "wide heads, one layer": {"head_dim": 8, "heads": 3, "depth": 1},
    "long memory": {"memory_length": 40},
}
EVERY = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def build(options: dict[str, object], dtype: torch.dtype = torch.float64) -> FeedbackTransformer:
    """A small model whose every parameter is away from its special starting value."""
    model = FeedbackTransformerConfig(**{"dim": 8, "depth": 2, "heads": 2, "memory_length": 6, **options}).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(dtype)


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_transformer, "runs_fast", lambda *_: False)


@EVERY
@pytest.mark.parametrize("padded", [False, True])
def test_both_ways_give_the_same(options: dict[str, object], padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(options)
    x = torch.randn(3, 19, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 19) < 0.7 if padded else None
    if mask is not None:
        mask[1] = False
    inputs = [x, *model.parameters()]

    def run() -> list[Tensor]:
        torch.manual_seed(1)
        y = model(x, mask=mask)
        z, state = model.extend(x[:, :5], model.init_state(3), mask=None if mask is None else mask[:, :5])
        u, state = model.extend(x[:, 5:], state, mask=None if mask is None else mask[:, 5:])
        total = sum((part * torch.randn_like(part)).sum() for part in (y, z, u, state.memory))
        return [y, z, u, state.memory, state.seen, *torch.autograd.grad(total, inputs)]

    assert runs_fast(model.config, model.stack, x)
    found = run()
    slow(monkeypatch)
    for tensor, other in zip(found, run(), strict=True):
        assert torch.allclose(tensor, other, rtol=1e-9, atol=1e-10)


def test_rows_of_unlike_age_and_a_wider_dtype_of_the_state() -> None:
    model = build({}, torch.float32).eval()
    x = torch.randn(3, 9, 8)
    mask = torch.tensor([[True] * 9, [False] * 9, [True, False, True] * 3])
    _, state = model.extend(x, model.init_state(3, dtype=torch.float64), mask=mask)
    assert state.seen.tolist() == [9, 0, 6] and state.memory.dtype is torch.float32
    y, _ = model.extend(x, state)
    for row in range(3):
        alone = model(torch.cat((x[row, mask[row]], x[row]))[None])[0, -9:]
        assert torch.allclose(y[row], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "fast"),
    [
        ({}, True),
        ({"segment_length": 2}, False),
        ({"cross_attention": True}, False),
        ({"dropout": 0.1}, False),
        ({"attention_dropout": 0.1}, False),
        ({"checkpointing": True}, False),
    ],
)
def test_what_the_options_let_through(options: dict[str, object], fast: bool) -> None:
    model = build(options, torch.float32)
    x = torch.randn(1, 2, 8)
    assert runs_fast(model.config, model.stack, x) is fast
    with torch.no_grad():
        unsaved = fast or "checkpointing" in options
        assert runs_fast(model.config, model.stack, x) is unsaved
        assert runs_fast(model.config, model.eval().stack, x) is (unsaved or "dropout" in str(options))


def test_a_module_that_was_changed_is_run() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x = torch.randn(2, 4, 8)
    model = build({}, torch.float32)
    layer = model.stack.layers[1].feed_forward.layer
    plain = model(x)

    other = copy.deepcopy(model)
    twice = Doubled(8, layer.expand.out_features)
    twice.load_state_dict(layer.expand.state_dict())
    other.stack.layers[1].feed_forward.layer.expand = twice
    assert not runs_fast(other.config, other.stack, x) and not torch.allclose(other(x), plain)

    calls = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    assert not runs_fast(model.config, model.stack, x)
    assert torch.allclose(model(x), plain, atol=1e-5) and len(calls) == 4
    handle.remove()
    assert runs_fast(model.config, model.stack, x)

    model.stack.layers[0].norm.eps = 1e-3
    assert not runs_fast(model.config, model.stack, x)


def test_other_ways_to_run_keep_to_the_modules() -> None:
    model = build({}, torch.float32).eval()
    x = torch.randn(1, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_fast(model.config, model.stack, x)
    assert not runs_fast(model.config, model.stack, x.double()) and not runs_fast(model.config, model.bfloat16().stack, x.bfloat16())
