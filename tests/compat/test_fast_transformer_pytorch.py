"""compat.fast_transformer_pytorch beside the published package, and what it mends: masks left out, half precision, rows of padding."""

import copy
import pickle

import fast_transformer_pytorch as published
import pytest
import torch
from fast_transformer_pytorch.fast_transformer_pytorch import FastAttention as PublishedAttention
from rotary_embedding_torch import RotaryEmbedding as PublishedRotary
from torch import Tensor, nn

from subquadratic.compat import fast_transformer_pytorch as ours

SHARED = ("to_q_attn_logits", "to_k_attn_logits")


def difference(reference: Tensor, value: Tensor) -> float:
    return ((reference - value).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt().clamp_min(1e-12)).item()


def pair(**options: object) -> tuple[nn.Module, nn.Module]:
    options = dict(dict(num_tokens=20, dim=16, depth=2, max_seq_len=24, heads=2, dim_head=8), **options)
    reference, model = published.FastTransformer(**options), ours.FastTransformer(**options)
    model.load_state_dict(reference.state_dict(), strict=True)
    return reference, model


def right_padding(length: int) -> Tensor:
    return torch.arange(length)[None] < torch.tensor([[length], [max(1, length - 4)]])


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("options", [dict(), dict(depth=3, heads=1, ff_mult=2), dict(depth=1, dim_head=4)], ids=str)
@pytest.mark.parametrize("length", [1, 13, 24])
def test_same_outputs_and_gradients(options: dict, absolute: bool, length: int) -> None:
    reference, model = pair(absolute_pos_emb=absolute, **options)
    tokens, mask = torch.randint(0, 20, (2, length)), right_padding(length)
    expected, found = reference(tokens, mask=mask)[mask], model(tokens, mask=mask)[mask]
    assert difference(expected, found) < 1e-5
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    largest = max(gradient.norm() for gradient in gradients.values())
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        if gradients[name].norm() > 1e-5 * largest:
            assert difference(gradients[name], parameter.grad) < 1e-4, name


def test_left_padding_counts_every_place_as_published() -> None:
    for absolute in (False, True):
        reference, model = pair(absolute_pos_emb=absolute)
        tokens, mask = torch.randint(0, 20, (2, 13)), right_padding(13).flip(1)
        assert difference(reference(tokens, mask=mask)[mask], model(tokens, mask=mask)[mask]) < 1e-5


@pytest.mark.parametrize("learned", [False, True])
def test_attention_with_a_rotary_module_of_the_users(learned: bool) -> None:
    rotary = PublishedRotary(4, learned_freq=learned)
    reference = PublishedAttention(16, heads=2, dim_head=8, max_seq_len=24, pos_emb=rotary)
    model = ours.FastAttention(16, heads=2, dim_head=8, max_seq_len=24, pos_emb=copy.deepcopy(rotary))
    model.load_state_dict(reference.state_dict(), strict=True)
    x, mask = torch.randn(2, 13, 16), torch.ones(2, 13, dtype=torch.bool)
    expected, found = reference(x, mask=mask), model(x)
    assert difference(expected, found) < 1e-5
    if learned:
        expected.sum().backward()
        found.sum().backward()
        assert difference(rotary.freqs.grad, model.pos_emb.freqs.grad) < 1e-4
    plain = ours.FastAttention(16, heads=2, dim_head=8, max_seq_len=24, pos_emb=ours.RotaryEmbedding(4))
    plain.load_state_dict(reference.state_dict(), strict=True)
    torch.testing.assert_close(plain(x), found)


def test_readme_example() -> None:
    model = ours.FastTransformer(num_tokens=200, dim=32, depth=2, max_seq_len=64, absolute_pos_emb=True)
    x, mask = torch.randint(0, 200, (1, 64)), torch.ones(1, 64).bool()
    logits = model(x, mask=mask)
    assert logits.shape == (1, 64, 200)
    assert torch.equal(logits, model(x))


def test_own_state_dict_holds_each_tensor_once() -> None:
    for absolute in (False, True):
        reference, model = pair(depth=3, absolute_pos_emb=absolute)
        state = model.state_dict()
        assert len({value.data_ptr() for value in state.values()}) == len(state)
        assert {name for name, _ in reference.named_parameters()} == state.keys()
        copy.deepcopy(model).load_state_dict(state, strict=True)


def test_shared_vectors_must_agree_and_exist() -> None:
    reference, model = pair(depth=3)
    state = reference.state_dict()
    for name in SHARED:
        changed = dict(state, **{f"layers.2.0.fn.{name}.weight": state[f"layers.2.0.fn.{name}.weight"] + 1})
        with pytest.raises(RuntimeError, match=rf"layers\.2\.0\.fn\.{name}\.weight differs"):
            model.load_state_dict(changed)
        only_last = {key: value for key, value in state.items() if name not in key or key.startswith("layers.2")}
        model.load_state_dict(only_last)  # a saver that drops duplicates may keep any one of them
        none = {key: value for key, value in state.items() if name not in key}
        with pytest.raises(RuntimeError, match=f"Missing key.*{name}"):
            model.load_state_dict(none)
    with pytest.raises(RuntimeError, match="freqs are not those"):
        model.load_state_dict(dict(state, **{"layers.0.0.fn.pos_emb.freqs": state["layers.0.0.fn.pos_emb.freqs"] * 3}))
    with pytest.raises(RuntimeError, match="freqs must have 2 values"):
        model.load_state_dict(dict(state, **{"layers.0.0.fn.pos_emb.freqs": torch.ones(4)}))


@pytest.mark.parametrize("absolute", [False, True])
def test_padding_content_and_empty_rows(absolute: bool) -> None:
    _, model = pair(absolute_pos_emb=absolute)
    tokens, mask = torch.randint(0, 20, (2, 13)), torch.tensor([[True] * 9 + [False] * 4, [False] * 13])
    found = model(tokens.masked_fill(~mask, -100), mask=mask)
    assert found.isfinite().all()
    assert torch.equal(found[mask], model(tokens, mask=mask)[mask])
    torch.testing.assert_close(found[:1, :9], model(tokens[:1, :9]))
    attention = model.layers[0][0].fn
    x = torch.randn(2, 13, 16).masked_fill(~mask[..., None], torch.nan)
    output = attention(x, mask)
    assert not output[~mask].any()
    output.sum().backward()
    assert attention.to_qkv.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("absolute", [False, True])
def test_half_precision(dtype: torch.dtype, absolute: bool) -> None:
    _, model = pair(absolute_pos_emb=absolute)
    tokens, mask = torch.randint(0, 20, (2, 24)), right_padding(24)
    exact = model(tokens, mask=mask)
    with torch.autocast("cpu", dtype=dtype):
        assert difference(exact, model(tokens, mask=mask).float()) < 0.05
    half = copy.deepcopy(model).to(dtype)
    assert difference(exact, half(tokens, mask=mask).float()) < 0.05
    x = 20 * torch.randn(2, 24, 16)
    attention = half.layers[0][0].fn
    loss = attention(x.to(dtype), mask=mask).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert attention.to_qkv.weight.grad.isfinite().all()


def test_copies() -> None:
    reference, model = pair()
    tokens = torch.randint(0, 20, (2, 9))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(tokens), model(tokens))
        twin.load_state_dict(reference.state_dict())


def test_errors() -> None:
    for absolute in (False, True):
        _, model = pair(absolute_pos_emb=absolute)
        with pytest.raises(ValueError, match="25 positions, more than max_seq_len=24"):
            model(torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(ValueError, match="dim_head must be divisible by 4"):
        ours.FastTransformer(num_tokens=20, dim=16, depth=2, max_seq_len=24, dim_head=6)
    pair(dim_head=6, absolute_pos_emb=True)
    with pytest.raises(ValueError, match="max_seq_len must be given"):
        ours.FastAttention(16, pos_emb=ours.RotaryEmbedding(4))
    with pytest.raises(ValueError, match="mask must be bool"):
        model(torch.zeros(1, 9, dtype=torch.long), mask=torch.ones(1, 9))
    with pytest.raises(TypeError, match="causal"):
        ours.FastTransformer(num_tokens=20, dim=16, depth=2, max_seq_len=24, causal=True)
