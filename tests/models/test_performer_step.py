"""A Performer's new token in one operation: what the modules would give, and only where nobody could tell."""

from typing import Any

import pytest
import torch
from torch import nn

import subquadratic as sq
from subquadratic.core.backend import use_backend
from subquadratic.kernels.native import library
from subquadratic.models import performer

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
SIZE: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 2, "features": 9}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each step, whether it was one operation."""
    seen: list[bool] = []
    own = performer.step_at_once

    def step(*given: Any) -> Any:
        found = own(*given)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(performer, "step_at_once", step)
    return seen


def last_steps(model: sq.Performer, x: torch.Tensor) -> torch.Tensor:
    outputs, state = [], model.init_state(len(x))
    with torch.no_grad():
        for one in x.split(1, dim=1):
            y, state = model.extend(one, state)
            outputs.append(y)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize(
    "options",
    [{}, {"ff_glu": True, "qkv_bias": True}, {"positions": None, "out_bias": False}, {"positions": "fixed", "head_dim": 6}],
    ids=str,
)
def test_it_is_what_the_modules_give(rows: int, options: dict[str, Any], taken: list[bool]) -> None:
    model = sq.Performer(sq.PerformerConfig(**SIZE, **options)).eval()
    x = torch.randn(rows, 11, 24)
    found = last_steps(model, x)
    with use_backend("torch"):
        wanted = last_steps(model, x)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    if rows <= 8:  # of more the processor decides
        assert all(taken[1:11]) and not any(taken[11:])


OTHERWISE: dict[str, dict[str, Any]] = {
    "token shift": {"token_shift": True}, "local": {"local_heads": 1, "local_window": 4}, "relu": {"kernel": "relu"},
    "qk_norm": {"qk_norm": True},
    "dense": {"estimator": "dense", "center": True}, "optimal": {"estimator": "optimal"}, "epsilon": {"feature_epsilon": 1e-3},
    "rezero": {"norm": "rezero"}, "scale": {"norm": "scale"}, "chunks": {"ff_chunks": 2}, "reversible": {"reversible": True},
}  # fmt: skip


@pytest.mark.parametrize("options", OTHERWISE.values(), ids=OTHERWISE)
def test_what_the_kernels_do_not_compute_is_made_of_the_modules(options: dict[str, Any], taken: list[bool]) -> None:
    model = sq.Performer(sq.PerformerConfig(**SIZE, **options)).eval()
    x = torch.randn(2, 9, 24)
    found = last_steps(model, x)
    assert taken and not any(taken)
    with torch.no_grad():
        torch.testing.assert_close(found, model(x), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["stack", "stack.blocks.0.attention", "stack.blocks.1.feed_forward.layer.expand", "stack.blocks.0.attention.norm"]
)
def test_whoever_listens_is_called(name: str, taken: list[bool]) -> None:
    model, calls = sq.Performer(sq.PerformerConfig(**SIZE)).eval(), []
    model.get_submodule(name).register_forward_hook(lambda *given: calls.append(given))
    last_steps(model, torch.randn(1, 4, 24))
    assert len(calls) == 4 and not any(taken)


def test_other_numbers_and_modules_are_read(taken: list[bool]) -> None:
    model, x = sq.Performer(sq.PerformerConfig(**SIZE)).eval(), torch.randn(1, 5, 24)
    before = last_steps(model, x)
    model.stack.blocks[0]["attention"].norm.bias.data.add_(1)
    changed = last_steps(model, x)
    assert (changed - before).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(changed, model(x), rtol=2e-3, atol=1e-4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        taken.clear()
        model.extend(x[:, :1], model.init_state(1))
        assert not any(taken)
    model.stack.blocks[0]["attention"].layer.output = nn.Linear(24, 24)
    taken.clear()
    last_steps(model, x)
    assert not any(taken)
    model = model.double()
    last_steps(model, x.double())
    assert not any(taken)


def test_with_gradients_it_is_made_of_the_modules(taken: list[bool]) -> None:
    model, x = sq.Performer(sq.PerformerConfig(**SIZE)).eval(), torch.randn(1, 1, 24)
    y, _ = model.extend(x, model.init_state(1))
    y.sum().backward()
    assert not any(taken) and model.stack.blocks[0]["attention"].layer.query.weight.grad is not None
