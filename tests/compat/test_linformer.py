"""compat.linformer beside the published package, and what it adds: masks and clear errors."""

import copy
import itertools
import pickle

import linformer as published
import pytest
import torch
from torch import Tensor, nn

from subquadratic.compat import linformer as ours

OPTIONS = [
    dict(one_kv_head=one, share_kv=share, reversible=reversible, dim_head=width)
    for one, share, reversible, width in itertools.product((False, True), (False, True), (False, True), (None, 6))
]


def difference(reference: Tensor, value: Tensor) -> float:
    return ((reference - value).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt().clamp_min(1e-12)).item()


def pair(name: str, *args: object, **options: object) -> tuple[nn.Module, nn.Module]:
    reference, model = getattr(published, name)(*args, **options), getattr(ours, name)(*args, **options)
    model.load_state_dict(reference.state_dict(), strict=True)
    return reference, model


def lm(**options: object) -> tuple[nn.Module, nn.Module]:
    return pair("LinformerLM", **dict(dict(num_tokens=20, dim=16, seq_len=24, depth=2, k=5, heads=2), **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("length", [1, 13, 24])
def test_same_outputs_and_gradients(options: dict, length: int) -> None:
    reference, model = lm(**options)
    tokens = torch.randint(0, 20, (2, length))
    expected, found = reference(tokens), model(tokens)
    assert difference(expected, found) < 1e-5
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    blank = ours.LinformerLM(num_tokens=20, dim=16, seq_len=24, depth=2, k=5, heads=2, **options)
    blank.load_state_dict({name: p.grad for name, p in reference.named_parameters()})  # under our names
    largest = max(p.grad.norm() for p in reference.parameters())
    for (name, gradient), parameter in zip(blank.named_parameters(), model.parameters(), strict=True):
        if gradient.norm() > 1e-5 * largest:
            assert difference(gradient, parameter.grad) < 1e-4, name


@pytest.mark.parametrize("options", [dict(), dict(share_kv=True), dict(one_kv_head=True, dim_head=7)], ids=str)
def test_attention_to_a_context(options: dict) -> None:
    reference, model = pair("LinformerSelfAttention", 16, 24, k=5, heads=2, **options)
    x, context = torch.randn(2, 9, 16), torch.randn(2, 21, 16)
    assert difference(reference(x, context), model(x, context)) < 1e-5
    assert difference(reference(x), model(x)) < 1e-5
    mask = torch.arange(21)[None] < torch.tensor([[21], [17]])
    found = model(x, context=context, context_mask=mask)
    assert difference(reference(x[1:], context[1:, :17]), found[1:]) < 1e-5


def test_initial_weights_follow_the_same_seed() -> None:
    torch.manual_seed(3)
    reference = published.LinformerLM(num_tokens=20, dim=16, seq_len=24, depth=2, k=5, heads=2)
    torch.manual_seed(3)
    model = ours.LinformerLM(num_tokens=20, dim=16, seq_len=24, depth=2, k=5, heads=2)
    for name, value in reference.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_readme_examples() -> None:
    model = ours.LinformerLM(
        num_tokens=200, dim=32, seq_len=64, depth=3, heads=8, dim_head=16, k=16, one_kv_head=True, share_kv=False, reversible=True
    )
    assert model(torch.randint(0, 200, (1, 64))).shape == (1, 64, 200)
    model = ours.Linformer(dim=32, seq_len=64, depth=3, heads=8, k=16, one_kv_head=True, share_kv=True)
    assert model(torch.randn(1, 64, 32)).shape == (1, 64, 32)
    attention = ours.LinformerSelfAttention(dim=32, seq_len=64, heads=8, k=16, one_kv_head=True, share_kv=True)
    assert attention(torch.randn(1, 64, 32)).shape == (1, 64, 32)
    assert attention(torch.randn(1, 48, 32), torch.randn(1, 64, 32)).shape == (1, 48, 32)


def test_keys_do_not_depend_on_reversible() -> None:
    options = dict(dim=16, seq_len=24, depth=2, k=5, heads=2)
    plain, reversible = ours.Linformer(**options), ours.Linformer(**options, reversible=True)
    assert plain.state_dict().keys() == reversible.state_dict().keys()
    reversible.load_state_dict(plain.state_dict())
    state = published.Linformer(**options, reversible=True).state_dict()
    state.pop("net.blocks.1.g.net.norm.bias")
    with pytest.raises(RuntimeError, match=r"Missing key.*net\.layers\.1\.1\.norm\.bias"):
        reversible.load_state_dict(state)
    state["net.blocks.1.g.net.other"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        reversible.load_state_dict(state)


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str, reversible: bool) -> None:
    _, model = lm(reversible=reversible)
    model.double()
    tokens, padding = torch.randint(0, 20, (2, 9)), torch.full((2, 6), -100)
    real, none = torch.ones(2, 9, dtype=torch.bool), torch.zeros(2, 6, dtype=torch.bool)
    left = side == "left"
    padded = torch.cat((padding, tokens) if left else (tokens, padding), dim=1)
    mask = torch.cat((none, real) if left else (real, none), dim=1)
    found = model(padded, mask=mask)[mask].view(2, 9, 20)
    torch.testing.assert_close(found, model(tokens), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["Linformer", "LinformerSelfAttention"])
def test_padding_may_hold_anything(name: str) -> None:
    _, model = pair(name, 16, 24, **(dict(depth=2) if name == "Linformer" else {}), k=5, heads=2)
    mask = torch.tensor([[True] * 9 + [False] * 4, [False] * 13])
    x = torch.randn(2, 13, 16)
    clean = model(x, mask=mask)
    found = model(x.masked_fill(~mask[..., None], torch.nan), mask=mask)
    assert torch.equal(clean, found)
    assert not clean[~mask].any()
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    _, attention = pair("LinformerSelfAttention", 16, 64, k=5, heads=2)
    x = 20 * torch.randn(2, 64, 16)
    mask = torch.arange(64)[None] < torch.tensor([[64], [50]])
    for run in (lambda: attention(x, mask=mask), lambda: copy.deepcopy(attention).to(dtype)(x.to(dtype), mask=mask)):
        with torch.autocast("cpu", dtype=dtype):
            assert run().isfinite().all()


def test_frozen_embedding_still_trains_the_reversible_stack() -> None:
    _, model = lm(reversible=True)
    model.token_emb.requires_grad_(False)
    model.pos_emb.requires_grad_(False)
    model.eval()
    tokens = torch.randint(0, 20, (2, 9))
    (model(tokens).sum() + model(tokens + 0).sum()).backward()
    assert all(p.grad is not None for p in model.linformer.parameters())


def test_copies() -> None:
    reference, model = lm(reversible=True)
    tokens = torch.randint(0, 20, (2, 9))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(tokens), model(tokens))
        twin.load_state_dict(reference.state_dict())


def test_errors() -> None:
    _, model = lm()
    with pytest.raises(ValueError, match="25 positions, more than seq_len=24"):
        model(torch.zeros(1, 25, dtype=torch.long))
    attention = ours.LinformerSelfAttention(16, 24, k=5, heads=2)
    x = torch.randn(1, 9, 16)
    with pytest.raises(ValueError, match="context has 25 positions"):
        attention(x, torch.randn(1, 25, 16))
    with pytest.raises(ValueError, match="context_mask was given without a context"):
        attention(x, context_mask=torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(TypeError, match="input_mask"):
        attention(x, input_mask=torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="pairwise"):
        attention(x, mask=torch.ones(9, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="divisible by heads"):
        ours.Linformer(16, 24, 2, heads=3)
    ours.Linformer(16, 24, 2, heads=3, dim_head=4)
    with pytest.raises(ValueError, match="k must be an integer of at least 1"):
        ours.Linformer(16, 24, 2, k=0)
    with pytest.raises(TypeError, match="causal"):
        ours.LinformerLM(20, 16, 24, 2, causal=True)
