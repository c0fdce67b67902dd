"""The ops give the same whoever computes them, and say so where a backend cannot."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import subquadratic as sq
from subquadratic.attention.additive.op import running_softmax_mean
from subquadratic.attention.favor.op import causal_favor
from subquadratic.attention.low_rank.op import causal_slot_attention
from subquadratic.core.backend import takes_triton, use_backend
from subquadratic.core.choices import backend_named
from subquadratic.kernels import triton

pytest.importorskip("triton")
LENGTH = 21


def test_an_empty_word_of_the_environment_is_none() -> None:
    assert backend_named({}) == backend_named({"SUBQUADRATIC_BACKEND": ""}) == "auto"
    assert backend_named({"SUBQUADRATIC_BACKEND": "torch"}) == "torch"


def random(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape).to(device).requires_grad_()


def arguments(op: str, batch: int, device: torch.device) -> tuple[Callable, list[Tensor]]:
    torch.manual_seed(0)
    heads = [random(batch, 2, LENGTH, 8, device=device) for _ in range(3)]
    if op == "favor":
        projection = torch.randn(20, 8, device=device)
        return lambda q, k, v, **more: causal_favor(q, k, v, projection, **more), heads
    if op == "features":
        features = [torch.rand(batch, 2, LENGTH, 16, device=device).requires_grad_() for _ in range(2)]
        return lambda q, k, v, **more: causal_favor(q, k, v, None, **more), [*features, heads[2]]
    if op == "pool":
        return running_softmax_mean, [random(batch, 2, LENGTH, device=device), heads[0]]
    weights = [(0.2 * torch.randn(LENGTH, 12)).to(device).requires_grad_() for _ in range(2)]  # scores of the size that models have
    return causal_slot_attention, [*heads, *weights]


@pytest.mark.parametrize("how", ["whole", "masked", "packed"])
@pytest.mark.parametrize("op", ["favor", "features", "pool", "slots"])
def test_both_backends_agree(op: str, how: str, device: torch.device) -> None:
    batch = 1 if how == "packed" else 2
    run, inputs = arguments(op, batch, device)
    more: dict[str, Tensor] = {}
    if how == "masked" and op != "slots":
        more["mask"] = (torch.rand(batch, LENGTH) > 0.3).to(device)
    if how == "packed":
        more["cu_seqlens"] = torch.tensor([0, 6, 6, 7, LENGTH], device=device)
    found = []
    for backend in ("torch", "triton"):
        first, state = run(*inputs, backend=backend, **more)
        second, after = run(*inputs, state=state, backend=backend, **more)
        total = second.square().sum() + first.sum()
        if hasattr(after, "maximum"):
            torch.testing.assert_close(torch.isfinite(after.maximum), torch.ones_like(after.maximum, dtype=torch.bool))
        found.append([first, second, *torch.autograd.grad(total, inputs)])
    for by_torch, by_triton in zip(*found, strict=True):
        torch.testing.assert_close(by_triton, by_torch, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "config",
    [
        sq.PerformerConfig(dim=16, depth=1, heads=2, features=16),
        sq.PerformerConfig(dim=16, depth=1, heads=2, kernel="relu", features=16),
        sq.LinformerConfig(dim=16, depth=1, heads=2, max_length=32, slots=4),
        sq.FastformerConfig(dim=16, depth=1, heads=2),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_trains_and_streams_by_either(config: sq.PerformerConfig, device: torch.device) -> None:
    torch.manual_seed(0)
    model = sq.LanguageModel(config, vocab_size=11).to(device)
    tokens = torch.randint(0, 11, (2, 18), device=device)
    found = []
    for backend in ("torch", "triton"):
        model.zero_grad()
        with use_backend(backend):
            loss = model.loss(tokens)
            loss.backward()
            logits, _ = model.extend(tokens[:, :7], model.init_state(2))
        found.append([loss.detach(), logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for by_torch, by_triton in zip(*found, strict=True):
        torch.testing.assert_close(by_triton, by_torch, rtol=1e-3, atol=1e-5)


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.zeros(1)
    assert not takes_triton(None, values)
    with use_backend("triton"):
        assert takes_triton(None, values)
        assert not takes_triton("torch", values)
        with pytest.raises(ValueError, match="float64"):
            takes_triton(None, values.double())
    assert not takes_triton(None, values)
    with pytest.raises(ValueError, match="backend must be one of"):
        takes_triton("cuda", values)
    with pytest.raises(ValueError, match="backend must be one of"), use_backend("trition"):
        pass
    monkeypatch.setattr(triton, "available", lambda device: False)
    with pytest.raises(ValueError, match=r"subquadratic\[triton\]"):
        takes_triton("triton", values)
