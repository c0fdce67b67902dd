"""Every kind of derivative, of every model: forward mode, second ones, those of `torch.func`, by weights and by what came before, whether
the C kernels compute or PyTorch does. Each is right, and none is silently left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, linearize, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import subquadratic as sq
from subquadratic.attention.feedback import forward as feedback_forward
from subquadratic.kernels.native import library

from .matrix import BACKBONES, SMALL, inputs, tokens

LENGTH = 9
# Beside each backbone as it is: options whose tensors take other ways.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "performer": [
        {},
        {"estimator": "optimal", "center": True, "balance": "channel"},
        {"estimator": "dense", "center": True, "balance": "full"},
        {"kernel": "efficient", "features": None},
        {"local_heads": 1, "local_window": 4},
        {"reversible": True},
    ],
    "linformer": [{}, {"projection": "conv", "share": "layer", "checkpointing": True}],
    "fastformer": [{}, {"tie_logit_vectors": True, "reversible": True}, {"positions": None, "token_shift": True}],
    "feedback_transformer": [
        {},
        {"segment_length": 3},
        {"norm": "scale", "share_key_value": False},
        {"checkpointing": True, "segment_length": 4},
    ],
    "perceiver_ar": [{}, {"checkpointing": True}],
    "transformer": [{}, {"window": 3, "norm": "rezero"}],
}
CASES = [
    pytest.param(kind(**{**SMALL, **needed, **option, "causal": causal}), id=f"{name}-{causal}-{option}")
    for name, (kind, needed, _) in BACKBONES.items()
    for option in OPTIONS.get(name, [{}])
    for causal in (True, False)
    if causal or not kind.causal_only
]


def mark_slow(case: Any) -> Any:
    return pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)


MASK = torch.tensor([[False] * 2 + [True] * 7, [True] * 6 + [False] * 3])


class Function:
    """A model of one tensor (2, N, D), as a number; with everything that derivatives are compared with."""

    def __init__(self, config: sq.BackboneConfig, *, mask: Tensor | None = None, length: int = LENGTH, dtype: torch.dtype = torch.float64):
        self.model, self.mask = config.build().to(dtype).eval(), mask
        self.x, self.direction = (inputs(2, length, config.dim, seed=seed, dtype=dtype) for seed in (1, 2))
        self.weights = inputs(*self.model(self.x).shape, seed=3, dtype=dtype)

    def y(self, x: Tensor) -> Tensor:
        return self.model(x, mask=self.mask)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.y(x).square() * self.weights).sum()

    def gradient(self, x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(self(leaf), leaf)[0]

    def along(self, function: Callable[[Tensor], Tensor], step: float = 1e-6) -> Tensor:
        """The derivative of a function of x in the direction, by differences."""
        return (function(self.x + step * self.direction) - function(self.x - step * self.direction)).detach() / (2 * step)


def close(found: Tensor, true: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, true.to(found.dtype), rtol=tolerance, atol=tolerance * true.abs().max().item())


def tangent(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction))).tangent
    assert found is not None, "the tangent is left out"
    return found


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("config", CASES)
def test_forward_mode(config: sq.BackboneConfig, mask: Tensor | None) -> None:
    f = Function(config, mask=mask)
    true = f.along(f.y)
    close(jvp(f.y, (f.x,), (f.direction,))[1], true)
    close(tangent(f.y, f.x, f.direction), true)
    with torch.no_grad():
        close(tangent(f.y, f.x, f.direction), true)


@pytest.mark.parametrize("config", [case if "fastformer-True-{}" in str(case.id) else mark_slow(case) for case in CASES])
def test_linearization(config: sq.BackboneConfig) -> None:
    f = Function(config)
    close(linearize(f.y, f.x)[1](f.direction), f.along(f.y))


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("config", CASES)
def test_second_derivatives(config: sq.BackboneConfig, mask: Tensor | None) -> None:
    f = Function(config, mask=mask)
    true, x = f.along(f.gradient), f.x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    close(torch.autograd.grad((first * f.direction).sum(), x)[0], true)
    close(jvp(grad(f), (f.x,), (f.direction,))[1], true)


@pytest.mark.parametrize("segment", [1, 2])
def test_what_is_cut_off_is_cut_off_for_all(segment: int) -> None:
    """Truncated back-propagation: no difference would tell, but all kinds of derivative agree."""
    f = Function(sq.FeedbackTransformerConfig(**SMALL, memory_length=7, detach_every=4, segment_length=segment))
    true = (f.gradient(f.x) * f.direction).sum()
    close(jvp(f, (f.x,), (f.direction,))[1], true)
    with torch.no_grad():
        close(tangent(f, f.x, f.direction), true)
    x = f.x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    found = torch.autograd.grad((first * f.direction).sum(), x)[0]
    close(found, grad(lambda x: (grad(f)(x) * f.direction).sum())(f.x))
    assert not torch.allclose((f.along(f) - true), torch.zeros_like(true))


@pytest.mark.parametrize("config", CASES)
def test_a_penalty_on_gradients_reaches_all_weights(config: sq.BackboneConfig) -> None:
    f = Function(config, mask=MASK)
    parameters = dict(f.model.named_parameters())

    def penalty(**options: Any) -> Tensor:
        x = f.x.clone().requires_grad_()
        return torch.autograd.grad(f(x), x, create_graph=True, **options)[0].square().sum()

    gradients = torch.autograd.grad(penalty(), list(parameters.values()), allow_unused=True)
    directions = [torch.randn_like(p) for p in parameters.values()]
    ends = []
    for sign in (-1, 1):
        moved = {name: p.detach() + sign * 1e-6 * d for (name, p), d in zip(parameters.items(), directions, strict=True)}
        original = {name: p.detach().clone() for name, p in parameters.items()}
        f.model.load_state_dict({**f.model.state_dict(), **moved})
        ends.append(penalty().detach())
        f.model.load_state_dict({**f.model.state_dict(), **original})
    found = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    close(torch.as_tensor(found), (ends[1] - ends[0]) / 2e-6, 1e-5)


@pytest.mark.parametrize("config", CASES)
def test_torch_func_with_other_weights(config: sq.BackboneConfig) -> None:
    f = Function(config, mask=MASK)
    other = {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in f.model.named_parameters()}
    directions = {name: torch.randn_like(p) for name, p in other.items()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return (functional_call(f.model, weights, (x,), {"mask": MASK}).square() * f.weights).sum()

    gradients = grad(loss)(other, f.x)
    found = jvp(lambda weights: loss(weights, f.x), (other,), (directions,))[1]
    with torch.no_grad(), forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(other[name], directions[name]) for name in other}
        dual = forward_ad.unpack_dual(loss(duals, f.x)).tangent
    f.model.load_state_dict({**f.model.state_dict(), **other})
    parameters = dict(f.model.named_parameters())
    true = torch.autograd.grad(f(f.x), list(parameters.values()), allow_unused=True)
    along = torch.zeros((), dtype=torch.float64)
    for name, expected in zip(parameters, true, strict=True):
        expected = torch.zeros_like(other[name]) if expected is None else expected
        close(gradients[name], expected)
        along += (expected * directions[name]).sum()
    close(found, along)
    close(dual, along)


@pytest.mark.parametrize("config", CASES)
def test_per_sample_gradients_and_jacobians(config: sq.BackboneConfig) -> None:
    f = Function(config, mask=MASK)

    def one(x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        return (f.model(x[None], mask=mask[None])[0].square() * weights).sum()

    close(vmap(grad(one))(f.x, MASK, f.weights), f.gradient(f.x))
    f.mask = None
    rows = jacrev(lambda x: f.y(x)[0, -1, :3])(f.x)
    leaf = f.x.clone().requires_grad_()
    for row, number in zip(rows, f.y(leaf)[0, -1, :3], strict=True):
        close(row, torch.autograd.grad(number, leaf, retain_graph=True)[0])


@pytest.mark.parametrize("config", [case for case in CASES if case.values[0].causal])  # type: ignore[attr-defined]
def test_a_stream(config: sq.BackboneConfig) -> None:
    """Also through the state: tokens alone, and pieces."""
    f = Function(config)

    def stream(x: Tensor) -> Tensor:
        state, outputs = f.model.init_state(2, dtype=x.dtype), []
        for start, stop in ((0, 1), (1, 2), (2, 7), (7, LENGTH)):
            y, state = f.model.extend(x[:, start:stop], state, mask=MASK[:, start:stop])
            outputs.append(y)
        return torch.cat(outputs, dim=1)

    def gradient(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(stream(leaf).square().sum(), leaf)[0]

    true, second = f.along(stream), f.along(gradient)
    close(jvp(stream, (f.x,), (f.direction,))[1], true)
    with torch.no_grad():
        close(tangent(stream, f.x, f.direction), true)
    x = f.x.clone().requires_grad_()
    (first,) = torch.autograd.grad(stream(x).square().sum(), x, create_graph=True)
    close(torch.autograd.grad((first * f.direction).sum(), x)[0], second)
    close(grad(lambda x: stream(x).square().sum())(f.x), gradient(f.x))


@pytest.mark.parametrize("config", CASES)
def test_tangents_go_through_a_backward(config: sq.BackboneConfig) -> None:
    if config.checkpointing:
        pytest.skip("a recomputation goes the ways of its own time, and PyTorch says that they are others")
    f = Function(config, mask=MASK)
    leaf = f.x.clone().requires_grad_()
    y, along = f.y(leaf), torch.randn_like(f.weights)
    (true,) = torch.autograd.grad(y, leaf, along, retain_graph=True)
    close(tangent(lambda weights: torch.autograd.grad(y, leaf, weights, retain_graph=True)[0], f.weights, along), true)


class _Native(TorchDispatchMode):
    """Counts calls of the C kernels."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.namespace == "subquadratic"
        return function(*args, **(kwargs or {}))


LARGE = [
    pytest.param(kind(dim=64, depth=1, heads=2, causal=causal, **{**needed, **more}), id=f"{name}-{causal}")
    for name, (kind, needed, _) in BACKBONES.items()
    for more in ({"max_length": 600} if name == "linformer" else {"latents": 300} if name == "perceiver_ar" else {},)
    for causal in (True, False)
    if causal or not kind.causal_only
]


@pytest.mark.parametrize("config", LARGE)
@pytest.mark.parametrize("length", [80, 520])
def test_the_same_with_the_c_kernels_and_without(config: sq.BackboneConfig, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.why_not() is not None:
        pytest.skip(f"no C kernels: {library.why_not()}")
    monkeypatch.setattr("subquadratic.layers.norms.native.FEWEST_NUMBERS", 1)
    monkeypatch.setattr("subquadratic.layers.norms.native.has_matrix_unit", lambda: True)  # beside which alone they are taken
    loops: list[Any] = []
    if config.model_type == "feedback_transformer":  # its loop is one call of C, and no operator
        length, loop = min(length, 80), feedback_forward.run_forward
        monkeypatch.setattr(feedback_forward, "run_forward", lambda *args: loops.append(args) or loop(*args))
    torch.manual_seed(0)
    exact = Function(config, length=length)
    state, found, calls = exact.model.state_dict(), {}, 0
    true = exact.along(exact.gradient), exact.along(exact.y)
    for backend in ("torch", "auto"):
        with sq.use_backend(backend):
            f = Function(config, length=length, dtype=torch.float32)
            f.model.load_state_dict(state)
            x = f.x.clone().requires_grad_()
            with _Native() as native:
                (first,) = torch.autograd.grad(f(x), x, create_graph=True)
                calls = native.count
            (second,) = torch.autograd.grad((first * f.direction).sum(), x)
            found[backend] = second, jvp(f.y, (f.x,), (f.direction,))[1], tangent(f.y, f.x, f.direction)
            close(grad(f)(f.x), f.gradient(f.x), 1e-3)
    assert calls + len(loops) > 0, "nothing here was computed by the kernels"
    for second, forward, dual in found.values():
        close(second, true[0], 1e-3)
        close(forward, true[1], 1e-3)
        close(dual, true[1], 1e-3)


def per_sample(model: nn.Module, loss: Callable[[nn.Module, dict[str, Tensor], Tensor], Tensor], rows: Tensor) -> None:
    """vmap(grad) over rows of tokens: gradients of each row, as one by one."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    found = vmap(grad(lambda weights, row: loss(model, weights, row)), in_dims=(None, 0))(weights, rows)
    for index, row in enumerate(rows):
        value = loss(model, dict(model.named_parameters()), row)
        true = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        for name, expected in zip(weights, true, strict=True):
            close(found[name][index], torch.zeros_like(weights[name]) if expected is None else expected)


@pytest.mark.parametrize("config", CASES)
def test_per_sample_gradients_of_a_language_model(config: sq.BackboneConfig) -> None:
    model = sq.LanguageModel(config, vocab_size=13, max_length=40).double().eval()

    def loss(model: nn.Module, weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, weights, (row[None],)).logsumexp(dim=-1).mean()

    per_sample(model, loss, tokens(3, LENGTH))


class _Loss(nn.Module):
    def __init__(self, model: sq.LanguageModel):
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        return self.model.loss(rows)


@pytest.mark.parametrize("config", [case for case in CASES if case.values[0].causal])  # type: ignore[attr-defined]
def test_derivatives_of_a_loss(config: sq.BackboneConfig) -> None:
    model = _Loss(sq.LanguageModel(config, vocab_size=13, max_length=40).double().eval())
    rows = tokens(2, LENGTH)
    per_sample(model, lambda model, weights, row: functional_call(model, weights, (row[None],)), rows)
    parameters = list(model.parameters())
    directions = [torch.randn_like(p) for p in parameters]
    first = torch.autograd.grad(model(rows), parameters, create_graph=True, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(first, directions, strict=True) if g is not None)
    found = torch.autograd.grad(slope, parameters, allow_unused=True)
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * 1e-6 * direction
        ends.append(torch.autograd.grad(model(rows), parameters, allow_unused=True))
    for second, high, low in zip(found, *ends, strict=True):
        if second is not None and high is not None:
            close(second, (high - low) / 2e-6, 1e-4)


@pytest.mark.parametrize("config", CASES)
def test_per_sample_gradients_of_a_classifier(config: sq.BackboneConfig) -> None:
    model = sq.SequenceClassifier(config, vocab_size=13, num_classes=3, max_length=40).double().eval()

    def loss(model: nn.Module, weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, weights, (row[None],)).logsumexp(dim=-1).sum()

    per_sample(model, loss, tokens(3, LENGTH))


def test_tokens_out_of_range_are_named_where_they_can_be_seen() -> None:
    model = sq.LanguageModel(sq.TransformerConfig(**SMALL), vocab_size=13)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="vocab_size=13"):
        grad(lambda weights: functional_call(model, weights, (torch.tensor([[3, 13]]),)).sum())(weights)


@pytest.mark.parametrize("name", ["native", "triton"])
def test_a_backend_without_them_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "native" and library.why_not() is not None:
        pytest.skip(f"no C kernels: {library.why_not()}")
    monkeypatch.setattr("subquadratic.kernels.triton.available", lambda device: True)
    model, x = sq.FastformerConfig(**SMALL).build(), torch.randn(2, LENGTH, 16)
    with sq.use_backend(name):
        for call in (lambda: grad(lambda x: model(x).sum())(x), lambda: jvp(model, (x,), (x,)), lambda: tangent(model, x, x)):
            with pytest.raises(ValueError, match=f"backend='{name}' .* use backend='auto' or 'torch' there"):
                call()
