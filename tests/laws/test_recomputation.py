"""Law 8 in backward: what is computed again, is computed with the tensors that forward read; and models can be traced."""

from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import subquadratic as sq
from subquadratic.compat import linformer, performer_pytorch
from subquadratic.core.backend import use_backend
from subquadratic.models import backbone

SIZE: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}
CONFIGS = {
    "performer": sq.PerformerConfig(**SIZE, local_heads=1, local_window=7),
    "linformer": sq.LinformerConfig(**SIZE, max_length=40, slots=4),
    "fastformer": sq.FastformerConfig(**SIZE, causal=False),
    "transformer": sq.TransformerConfig(**SIZE, window=9),
    "perceiver": sq.PerceiverARConfig(**SIZE, latents=20),
    "feedback": sq.FeedbackTransformerConfig(**SIZE, memory_length=5, segment_length=4),
}
WAYS = [
    pytest.param(name, way, id=f"{name}-{way}")
    for name in CONFIGS
    for way in ("reversible", "checkpointing")
    if (name, way) != ("feedback", "reversible")
]
X = torch.randn(2, 24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def twin(name: str) -> Any:
    if name == "performer_pytorch":
        return performer_pytorch.Performer(dim=16, depth=2, heads=2, dim_head=8, causal=True, reversible=True)
    return linformer.Linformer(16, 24, 2, k=8, heads=2, reversible=True)


def build(name: str, way: str) -> Any:
    torch.manual_seed(0)
    return (CONFIGS[name].replace(**{way: True}).build() if name in CONFIGS else twin(name)).double()


TWINS = [pytest.param(name, "reversible", id=name) for name in ("performer_pytorch", "linformer_twin")]


@pytest.mark.parametrize("again", [False, True], ids=["gradients", "differentiated again"])
@pytest.mark.parametrize(("name", "way"), WAYS + TWINS)
def test_gradients_go_to_the_tensors_given(name: str, way: str, again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves, and tensors made of others; as a model that holds the same numbers has them."""
    monkeypatch.setattr(backbone, "STRETCH", 8)
    model, same = build(name, way), build(name, way)
    given = {key: (1.5 * value.detach()).requires_grad_() for key, value in model.named_parameters()}
    same.load_state_dict({**same.state_dict(), **given}) if name in CONFIGS else [
        own.data.mul_(1.5) for own in same.parameters()
    ]  # the twins' state dicts have other names
    with use_backend("torch"):
        found = torch.autograd.grad(functional_call(model, given, (X,)).square().sum(), list(given.values()), create_graph=again)
        wanted = torch.autograd.grad(same(X).square().sum(), list(same.parameters()), create_graph=again)
        if again:
            found = torch.autograd.grad(sum(g.square().sum() for g in found), list(given.values()), allow_unused=True)
            wanted = torch.autograd.grad(sum(g.square().sum() for g in wanted), list(same.parameters()), allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("name", "way"), WAYS + TWINS)
def test_tensors_made_of_others_count_once(name: str, way: str) -> None:
    model = build(name, way)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    given = {key: value.detach() * scale for key, value in model.named_parameters()}
    (found,) = torch.autograd.grad(functional_call(model, given, (X,)).square().sum(), scale)
    plain = torch.autograd.grad(model(X).square().sum(), list(model.parameters()))
    wanted = sum((g * p.detach()).sum() for g, p in zip(plain, model.parameters(), strict=True))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("name", "way"), WAYS + TWINS)
def test_weights_changed_before_backward_raise(name: str, way: str) -> None:
    model = build(name, way)
    loss = model(X).square().sum()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_features_redrawn_before_backward_raise() -> None:
    model = build("performer", "checkpointing")
    loss = model(X).square().sum()
    model.redraw_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("way", ["reversible", "checkpointing"])
def test_a_mode_set_before_backward_is_not_that_of_forward(way: str) -> None:
    config = CONFIGS["transformer"].replace(dropout=0.5, **{way: True})
    torch.manual_seed(0)
    model = config.build().double()
    found = []
    for mode in (True, False):
        torch.manual_seed(1)
        loss = model.train()(X).square().sum()
        model.train(mode)
        found.append(torch.autograd.grad(loss, list(model.parameters())))
        assert model.training is mode
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


TRACED = {name: config.replace(depth=1) for name, config in CONFIGS.items()}
TRACED |= {"reversible": sq.TransformerConfig(**SIZE, reversible=True), "full": sq.TransformerConfig(**SIZE)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", TRACED)
def test_models_can_be_traced(name: str, gradients: bool) -> None:
    model, x, other = TRACED[name].build().eval(), *torch.randn(2, 2, 24, 16)
    with torch.set_grad_enabled(gradients):
        graph = make_fx(lambda given: model(given))(x)
        torch.testing.assert_close(graph(other), model(other), rtol=1e-4, atol=1e-5)
        if name != "feedback":
            script = torch.jit.trace(model, x, check_trace=False)
            for given in (other,) if name == "perceiver" else (other, other[:, :19]):  # the length of its prefix is in the graph
                torch.testing.assert_close(script(given), model(given), rtol=1e-4, atol=1e-5)
