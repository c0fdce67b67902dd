"""`generate` with a cache equals generation without one: dynamic and static caches, chunks, beams, padding."""

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tests.hf.attention.models import LEFT, TOKENS, build, families

from subquadratic.attention.favor.state import FeatureState
from subquadratic.hf.attention import remembered
from subquadratic.hf.attention.options import FAVOR, WINDOW

FAMILIES = families()
WAYS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 7},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("implementation", [FAVOR, WINDOW])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3", "bert decoder"])
@pytest.mark.parametrize("way", WAYS)
def test_cached_equals_uncached(implementation: str, family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if family == "bert decoder" and way == "static":
        pytest.skip("transformers' BERT has no static cache")
    monkeypatch.setattr(remembered, "FEW", 1)  # keep summaries of short caches, too
    model_class, config, _ = FAMILIES[family]
    model = build(model_class, config, implementation, features=32, window=5)
    common = {"attention_mask": LEFT, "max_new_tokens": 8, "pad_token_id": 0, "do_sample": False, "output_logits": True}
    common |= {"return_dict_in_generate": True, **{key: value for key, value in WAYS[way].items() if not key.endswith(("ation", "size"))}}
    torch.manual_seed(4)
    cached = model.generate(TOKENS, **common, **{key: value for key, value in WAYS[way].items() if key not in common})
    torch.manual_seed(4)
    uncached = model.generate(TOKENS, **common, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    for step, expected in zip(cached.logits, uncached.logits, strict=True):
        assert (step - expected).abs().max() < 2e-4


def test_whisper_generates_through_cross_attention() -> None:
    model_class, config, inputs = FAMILIES["whisper"]
    model = build(model_class, config, FAVOR, features=32)
    given = {"input_features": inputs["input_features"], "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**given), model.generate(**given, use_cache=False))


def test_a_kept_summary_is_not_used_for_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams in turns, one cropped and continued otherwise: each as if alone."""
    monkeypatch.setattr(remembered, "FEW", 1)
    model_class, config, _ = FAMILIES["llama"]
    model = build(model_class, config, FAVOR, features=32)
    with torch.no_grad():
        streams = [model(TOKENS[row : row + 1], use_cache=True).past_key_values for row in (0, 1)]
        for step in range(4):
            for row, cache in enumerate(streams):
                token = TOKENS[row : row + 1, step : step + 1]
                text = torch.cat((TOKENS[row : row + 1], TOKENS[row : row + 1, : step + 1]), dim=1)
                expected = model(text, use_cache=False).logits[:, -1]
                assert (model(token, past_key_values=cache).logits[:, -1] - expected).abs().max() < 2e-4
        streams[0].crop(-4)
        other = model(TOKENS[1:, :1], past_key_values=streams[0]).logits[:, -1]
        expected = model(torch.cat((TOKENS[:1], TOKENS[1:, :1]), dim=1), use_cache=False).logits[:, -1]
        assert (other - expected).abs().max() < 2e-4


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_one_other_token_of_many_makes_another_cache(size: float) -> None:
    module, projection = torch.nn.Identity(), torch.ones(8, 4)
    keys, values = size * torch.randn(2, 1, 2, 2000, 4, generator=torch.Generator().manual_seed(0))
    remembered.keep(module, keys, values, None, projection, FeatureState(projection, projection, projection))
    assert remembered.recall(module, keys.clone(), values, None, projection) is not None
    for place in range(2000):
        others = keys.clone()
        others[:, :, place] = keys[:, :, place - 1]
        assert remembered.recall(module, others, values, None, projection) is None, place


def test_a_kept_summary_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "FEW", 1)
    found = []
    recall = remembered.recall
    monkeypatch.setattr("subquadratic.hf.attention.favor.recall", lambda *given: found.append(recall(*given)) or found[-1])
    model_class, config, _ = FAMILIES["llama"]
    model = build(model_class, config, FAVOR, features=32)
    model.generate(TOKENS, attention_mask=LEFT, max_new_tokens=6, do_sample=False, pad_token_id=0)
    layers = config.num_hidden_layers
    assert [state is not None for state in found] == [False] * layers + [True] * (len(found) - layers)
    assert len(found) == 5 * layers


def test_several_tokens_over_a_cache_see_each_other_causally() -> None:
    """The second chunk has fewer queries than keys: position i of N sees keys up to S - N + i."""
    for implementation in (FAVOR, WINDOW):
        for family in ("gpt2", "gemma3"):
            model_class, config, _ = FAMILIES[family]
            model = build(model_class, config, implementation, features=32, window=5)
            with torch.no_grad():
                whole = model(TOKENS, attention_mask=LEFT, use_cache=False).logits
                cache = model(TOKENS[:, :11], attention_mask=LEFT[:, :11], use_cache=True).past_key_values
                rest = model(TOKENS[:, 11:], attention_mask=LEFT, past_key_values=cache).logits
            assert (rest - whole[:, 11:]).abs().max() < 2e-4


def test_configurations_are_not_shared() -> None:
    """What the other tests stand on: building a model changes no configuration but its own."""
    _, config, _ = FAMILIES["llama"]
    assert copy.deepcopy(config)._attn_implementation is None
