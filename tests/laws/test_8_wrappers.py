"""Law 8: whatever is put around, into or onto a module acts, in forward, extend, generate and training alike.

Each module of each model is wrapped in turn; parts that models share, like embeddings and feed-forward layers, once in each kind of
stack, and in every model with `-m slow`. What comes out is compared with the same model made of called modules alone: a hook for all
modules that does nothing, and PyTorch's operators. Kernels are taken at any size here.
"""

import contextlib
import copy
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrize, prune

import subquadratic as sq
from subquadratic.core.backend import use_backend
from subquadratic.layers.feed_forward import native as feed_forward_native
from subquadratic.layers.linear import op as linear
from subquadratic.layers.norms import native as add_norm_native

V, LENGTH = 13, 70  # more than it is wide: then a bidirectional Fastformer folds vectors into weights
SIZE: dict[str, Any] = {"dim": 64, "depth": 1, "heads": 2}
CONFIGS = {
    "performer": sq.PerformerConfig(**SIZE, features=16, qk_norm=True),
    "performer-both": sq.PerformerConfig(**SIZE, features=16, causal=False, norm="rezero"),
    "performer-local": sq.PerformerConfig(**SIZE, features=16, local_heads=1, local_window=8, token_shift=True),
    "linformer": sq.LinformerConfig(**SIZE, max_length=80, slots=8),
    "linformer-layer": sq.LinformerConfig(**SIZE, max_length=80, slots=8, share="layer", causal=False),
    "fastformer": sq.FastformerConfig(**SIZE),
    "fastformer-both": sq.FastformerConfig(**SIZE, causal=False, norm="scale"),
    "feedback": sq.FeedbackTransformerConfig(**SIZE, memory_length=9),
    "feedback-segments": sq.FeedbackTransformerConfig(**SIZE, memory_length=9, segment_length=8, share_key_value=False),
    "perceiver": sq.PerceiverARConfig(**SIZE, latents=80),
    "transformer": sq.TransformerConfig(**SIZE, positions="learned"),
    "transformer-reversible": sq.TransformerConfig(**SIZE, reversible=True, window=9),
}
TOKENS = torch.randint(0, V, (2, LENGTH), generator=torch.Generator().manual_seed(1))
Undo = contextlib.ExitStack


@functools.cache
def made(name: str) -> Any:
    torch.manual_seed(0)
    net = sq.LanguageModel(CONFIGS[name], vocab_size=V, max_length=80)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(4)  # so that every part counts
    return net.eval()


def model(name: str) -> Any:
    return copy.deepcopy(made(name))


@pytest.fixture(autouse=True)
def kernels_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "FEWEST_OF_UNIT", 1)
    monkeypatch.setattr(add_norm_native, "FEWEST_NUMBERS", 1)
    monkeypatch.setattr(feed_forward_native, "FEWEST_ROWS", 1)


@contextlib.contextmanager
def modules_called() -> Iterator[None]:
    """Every module is called, and each operation is PyTorch's."""
    handle = register_module_forward_pre_hook(lambda module, given: None)
    try:
        with use_backend("torch"):
            yield
    finally:
        handle.remove()


def called(name: str) -> list[str]:
    """Names of the modules that are called at all: containers are not."""
    net, found = model(name), set()
    handle = register_module_forward_hook(lambda module, given, result: found.add(module) or None)  # type: ignore[func-returns-value]
    net(TOKENS)
    handle.remove()
    return [place for place, part in net.named_modules() if part in found and place]


SHARED = re.compile(r"embedding|feed_forward|(^|\.)(backbone|stack|norm|gain|shift|head)$")


def cases(places_in: Callable[[str], list[str]]) -> list[Any]:
    """The places in each model; those that show nothing new are slow."""
    found, seen = [], set()
    for name, config in CONFIGS.items():
        for place in places_in(name):
            kinds = type(made(name).get_submodule(place.rpartition(".")[0])), type(made(name).get_submodule(place))
            stack = config.norm, getattr(config, "reversible", False)
            what = (*kinds, place.rpartition(".")[2], *stack) if SHARED.search(place) else (name, place)
            found.append(pytest.param(name, place, id=f"{name}-{place}", marks=[pytest.mark.slow] if what in seen else []))
            seen.add(what)
    return found


PLACES = cases(called)


def scaled(result: Any) -> Any:
    """A module's result, half as large again."""
    return tuple(map(scaled, result)) if isinstance(result, tuple) else result * 1.5


class Adapter(nn.Module):
    """Around a module, with nothing of its own shown."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def forward(self, *given: Any, **options: Any) -> Any:
        return scaled(self.base(*given, **options))


def hook(net: nn.Module, place: str, undo: Undo) -> None:
    net.get_submodule(place).register_forward_hook(lambda module, given, result: scaled(result))


def global_hook(net: nn.Module, place: str, undo: Undo) -> None:
    part = net.get_submodule(place)
    undo.callback(register_module_forward_hook(lambda module, given, result: scaled(result) if module is part else None).remove)


def pre_hook(net: nn.Module, place: str, undo: Undo) -> None:
    def moved(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = given
        return (first + 0.5 if isinstance(first, Tensor) and first.is_floating_point() else first, *others)

    net.get_submodule(place).register_forward_pre_hook(moved)


def backward_hook(net: nn.Module, place: str, undo: Undo) -> None:
    def tripled(module: nn.Module, wanted: Any, given: Any) -> Any:
        return tuple(None if gradient is None else gradient * 3 for gradient in wanted)

    net.get_submodule(place).register_full_backward_hook(tripled)


def own_forward(net: nn.Module, place: str, undo: Undo) -> None:
    part = net.get_submodule(place)
    forward = part.forward
    part.forward = lambda *given, **options: scaled(forward(*given, **options))  # type: ignore[method-assign]


def adapter(net: nn.Module, place: str, undo: Undo) -> None:
    net.set_submodule(place, Adapter(net.get_submodule(place)))


def subclass(net: nn.Module, place: str, undo: Undo) -> None:
    part = net.get_submodule(place)
    kind = type(part)

    class Louder(kind):  # type: ignore[valid-type, misc]
        def forward(self, *given: Any, **options: Any) -> Any:
            return scaled(kind.forward(self, *given, **options))

    part.__class__ = Louder


LOUDER = (hook, global_hook, own_forward, adapter, subclass)  # all do the same to the result


def outcome(net: Any, *, gradients: bool = True) -> dict[str, Tensor]:
    """What a model computes: logits, loss, gradients."""
    tokens = TOKENS[:, :24] if isinstance(net.config, sq.FeedbackTransformerConfig) else TOKENS  # which goes token by token
    if not gradients:
        with torch.no_grad():
            return {"logits": net(tokens)}
    net.zero_grad()
    loss = net.loss(tokens, generator=torch.Generator().manual_seed(3))
    loss.backward()
    found = {name.replace("base.", ""): parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {"logits": net(tokens).detach(), "loss": loss.detach(), **found}


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in found.items():
        scale = max(float(wanted[name].abs().max()), 1e-3)
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-3 * scale, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_it_acts_in_forward_and_training(name: str, place: str) -> None:
    """Hooks, an own forward, a subclass and an adapter that do the same to a module's result, do the same."""
    with modules_called(), Undo() as undo:
        net = model(name)
        hook(net, place, undo)
        wanted = outcome(net)
    for put in LOUDER:
        net = model(name)
        with Undo() as undo:
            put(net, place, undo)
            found = outcome(net, gradients=put is adapter)
        assert_alike(found, wanted)
        assert put is not adapter or found.keys() == wanted.keys()
    if place not in ("backbone", "backbone.stack"):  # the norm that follows takes their scale away
        assert not torch.allclose(wanted["logits"], bare_logits(name), rtol=1e-4)


@functools.cache
def bare_logits(name: str) -> Tensor:
    return outcome(model(name), gradients=False)["logits"]


@pytest.mark.parametrize("put", [pre_hook, backward_hook], ids=lambda put: put.__name__)
@pytest.mark.parametrize(("name", "place"), PLACES)
def test_hooks_on_inputs_and_gradients_act(name: str, place: str, put: Callable[..., None]) -> None:
    net = model(name)
    put(net, place, Undo())
    found = outcome(net)
    with modules_called():
        assert_alike(found, outcome(net))


STREAMED = [case for case in PLACES if CONFIGS[str(case.values[0])].causal]


@pytest.mark.parametrize(("name", "place"), STREAMED)
@torch.no_grad()
def test_it_acts_in_extend_and_generate(name: str, place: str) -> None:
    for put in (hook, adapter):
        net = model(name)
        net.generate(TOKENS[:, :9], max_new_tokens=6, temperature=0.0)  # a recording of the bare model is there
        put(net, place, Undo())
        whole, parts, state = net(TOKENS), [], net.init_state(2)
        for piece in TOKENS.split([1, 1, 30, 1, LENGTH - 33], dim=1):
            logits, state = net.extend(piece, state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
        text, found = net.generate(TOKENS[:, :9], max_new_tokens=8, temperature=0.0, return_log_probs=True)
        wanted = net(text).log_softmax(dim=-1)[:, 8:-1].gather(-1, text[:, 9:, None])[..., 0]
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def weights(name: str) -> list[str]:
    kinds = (nn.Linear, nn.LayerNorm, nn.Embedding)
    return [place for place, part in made(name).named_modules() if isinstance(part, kinds)]


WEIGHTS = cases(weights)


class Tripled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 3


@functools.lru_cache(maxsize=2)
def with_tripled(name: str, place: str) -> tuple[Tensor, Tensor | None]:
    """What a model says whose weight is three times as large: logits, and log-probabilities of what it generates."""
    plain = model(name)
    with torch.no_grad():
        plain.get_submodule(place).weight.mul_(3)
        logits = plain(TOKENS)
        if not plain.config.causal:
            return logits, None
        return logits, plain.generate(TOKENS[:, :9], max_new_tokens=10, temperature=0.0, return_log_probs=True)[1]


@pytest.mark.parametrize("how", ["parametrized", "pruned", "functional", "in place"])
@pytest.mark.parametrize(("name", "place"), WEIGHTS)
def test_other_weights_are_read(name: str, place: str, how: str) -> None:
    """A weight three times as large, by whatever way, is a weight three times as large."""
    net = model(name)
    wanted, generated = with_tripled(name, place)
    if generated is not None:
        net.generate(TOKENS[:, :9], max_new_tokens=6)
    part = net.get_submodule(place)
    given = {}
    if how == "parametrized":
        parametrize.register_parametrization(part, "weight", Tripled())
    elif how == "pruned":
        prune.identity(part, "weight")
        with torch.no_grad():
            part.weight_orig.mul_(3)
    elif how == "in place":
        with torch.no_grad():
            part.weight.mul_(3)
    else:
        given = {f"{place}.weight": part.weight * 3}
    found = torch.func.functional_call(net, given, (TOKENS,)) if given else net(TOKENS)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    if generated is not None and not given:
        with torch.no_grad():
            new = net.generate(TOKENS[:, :9], max_new_tokens=10, temperature=0.0, return_log_probs=True)[1]
        torch.testing.assert_close(new, generated, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_quantised_maps_are_called(name: str) -> None:
    """Maps in int8, as torch.ao makes them of those of PyTorch's own class; here of all."""
    net, wanted = model(name), model(name)
    for place, part in list(net.named_modules()):
        if isinstance(part, nn.Linear):
            plain = nn.Linear(part.in_features, part.out_features, bias=part.bias is not None)
            plain.load_state_dict(part.state_dict())
            net.set_submodule(place, torch.ao.quantization.quantize_dynamic(nn.Sequential(plain), {nn.Linear})[0])
            wanted.get_submodule(place).register_forward_hook(lambda *_: None)
    close = (net(TOKENS) - wanted(TOKENS)).square().mean().sqrt() / wanted(TOKENS).square().mean().sqrt()
    assert 0 < close < 0.2
    if net.config.causal:
        state = net.init_state(2, device="cpu", dtype=torch.float32)
        first, state = net.extend(TOKENS[:, :20], state)
        second, _ = net.extend(TOKENS[:, 20:], state)
        streamed = torch.cat((first, second), dim=1)
        assert (streamed - net(TOKENS)).square().mean().sqrt() < 0.2 * net(TOKENS).square().mean().sqrt()
        assert net.generate(TOKENS[:, :9], max_new_tokens=3).shape == (2, 12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_part_in_another_mode_keeps_it(name: str, training: bool) -> None:
    """Dropout is at work in the parts that train, whatever the mode of the model around them."""
    config = CONFIGS[name].replace(dropout=0.5, attention_dropout=0.5)
    torch.manual_seed(0)
    net = sq.LanguageModel(config, vocab_size=V, max_length=80).train(not training)
    parts = [part for place, part in net.named_modules() if place.endswith(("feed_forward.layer", "feed_forward.layer.dropout"))]
    for part in parts:
        part.train(training)
    if not training:
        for part in net.modules():
            if part not in parts:
                part.train(part is net)  # the root alone says that it trains
    with torch.no_grad():
        first, second = net(TOKENS), net(TOKENS)
    assert torch.equal(first, second) is not training
