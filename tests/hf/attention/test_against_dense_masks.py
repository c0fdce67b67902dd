"""Our functions over sights, against the definition with the (N, S) masks that transformers makes of the same arguments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("transformers")

from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

from subquadratic.hf.attention.interface import FUNCTIONS
from subquadratic.hf.attention.options import FAVOR, LINFORMER, WINDOW
from subquadratic.hf.attention.projections import projection

FEATURES, WIDTH, OWN_WINDOW, SLOTS, W = 24, 8, 4, 64, 5


class Config(PretrainedConfig):
    """What transformers and we read of one."""

    sliding_window: int | None = OWN_WINDOW
    num_hidden_layers: int = 1
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = WIDTH
    hidden_size: int = 4 * WIDTH


def config_for(implementation: str) -> Config:
    config = Config()
    config._attn_implementation_internal = implementation
    plain = {"estimator": "positive", "center": False, "balance": None}  # whose definition is `dense_favor`
    config.subquadratic_attention = {"features": FEATURES, "slots": SLOTS, "window": W, **plain}
    return config


class Module(nn.Module):
    def __init__(self, config: Config, is_causal: bool):
        super().__init__()
        self.config, self.is_causal, self.layer_idx = config, is_causal, 0


def dense_favor(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """Weights proportional to sum_m phi_m(q) phi_m(k) over the keys that a query sees."""
    drawn = projection(FEATURES, WIDTH, 0, 0, 0, torch.device("cpu")).double()
    exponents = []
    for x in (queries, keys):
        x = x * WIDTH**-0.25
        exponents.append(x @ drawn.T - x.square().sum(-1, keepdim=True) / 2)
    scores = torch.logsumexp(exponents[0][..., :, None, :] + exponents[1][..., None, :, :], dim=-1)
    return weigh(scores, values, allowed)


def dense_softmax(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    return weigh(queries @ keys.mT / math.sqrt(WIDTH), values, allowed)


def weigh(scores: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1).nan_to_num(0.0) @ values


def mask_of(rows: list[tuple[int, int]], length: int) -> Tensor:
    return torch.tensor([[left <= place < length - right for place in range(length)] for left, right in rows])


def make(pattern: str, implementation: str, config: Config, length: int, **more: object) -> Tensor | None:
    create = {
        "causal": create_causal_mask,
        "sliding": create_sliding_window_causal_mask,
        "bidirectional": create_bidirectional_mask,
        "bidirectional sliding": create_bidirectional_sliding_window_mask,
    }[pattern]
    config._attn_implementation_internal = implementation
    skip = {"allow_is_causal_skip": False} if pattern in ("causal", "sliding") else {"allow_is_bidirectional_skip": False}
    if pattern in ("bidirectional sliding",) or pattern == "sliding":
        skip = {}
    return create(config=config, inputs_embeds=torch.zeros(2, length, 4), **more, **(skip if implementation == "sdpa" else {}))


def expected_window(allowed: Tensor, real: Tensor, size: int, length: int, causal: bool) -> Tensor:
    """``allowed``, and no farther than a window that counts real tokens."""
    places = real.cumsum(dim=-1)
    distance = places[:, -length:, None] - places[:, None, :]
    near = (distance >= 0) & (distance < size) if causal else distance.abs() < size
    return allowed & near[:, None]


@st.composite
def cases(draw: st.DrawFn) -> dict:
    past = draw(st.sampled_from([0, 0, 1, 6, 11]))
    length = draw(st.integers(1, 13))
    total = past + length
    padding = draw(st.sampled_from(["none", "left", "right"])) if past == 0 else draw(st.sampled_from(["none", "left"]))
    sizes = [(draw(st.integers(0, total - 1)) if padding == side else 0) for side in ("left", "right")]
    return {"past": past, "length": length, "rows": [(0, 0), tuple(sizes)], "padding": padding, "seed": draw(st.integers(0, 10**6))}


@pytest.mark.parametrize("implementation", [FAVOR, WINDOW])
@pytest.mark.parametrize("pattern", ["causal", "sliding", "bidirectional", "bidirectional sliding"])
@settings(deadline=None, max_examples=25)
@given(case=cases(), cache_kind=st.sampled_from(["dynamic", "static"]))
def test_equals_the_definition(implementation: str, pattern: str, case: dict, cache_kind: str) -> None:
    past, length = case["past"], case["length"]
    causal = pattern in ("causal", "sliding")
    if not causal:
        past = 0
    if pattern == "sliding":
        cache_kind = "dynamic"
    rows = case["rows"] if causal or past == case["past"] else [(0, 0), (0, 0)]
    torch.manual_seed(case["seed"])
    config = config_for(implementation)
    total = past + length
    real = mask_of(rows, total)
    mask = real.long() if case["padding"] != "none" else None
    keys, values = torch.randn(2, 2, total, WIDTH), torch.randn(2, 2, total, 6)
    cache = None
    if past or (causal and cache_kind == "static"):
        cache = DynamicCache() if cache_kind == "dynamic" else StaticCache(config=config_without_window(), max_cache_len=total + 3)
        if past:
            cache.update(keys[:, :, :past], values[:, :, :past].clone(), 0)
    more = {"attention_mask": mask}
    if causal:
        more["past_key_values"] = cache
    ours, dense = (make(pattern, name, config, length, **more) for name in (implementation, "sdpa"))
    if cache is not None:
        seen_keys, seen_values = cache.update(keys[:, :, past:], values[:, :, past:], 0)
    else:
        seen_keys, seen_values = keys, values
    if dense is None:  # nothing to say but causality
        dense = torch.ones(length, seen_keys.shape[2], dtype=torch.bool)
        dense = dense.tril(past) if causal else dense
        dense = dense.expand(2, 1, -1, -1)
    queries = torch.randn(2, 4, length, WIDTH)
    scaling = 0.7 * WIDTH**-0.5
    output, weights = FUNCTIONS[implementation](Module(config, causal), queries, seen_keys, seen_values, ours, scaling=scaling)
    assert weights is None and output.shape == (2, length, 4, 6)

    stretch = seen_keys.shape[2]
    all_real = torch.nn.functional.pad(real, (0, stretch - total))
    own = pattern.endswith("sliding")
    if implementation == WINDOW:
        size = min(W, OWN_WINDOW + (not causal)) if own else W
        counted = all_real[:, :total]
        seen = dense[..., :total]
        dense = torch.nn.functional.pad(expected_window(seen, counted, size, length, causal), (0, stretch - total))
    form = dense_softmax if implementation == WINDOW or own else dense_favor
    doubled = [tensor.double().repeat_interleave(2, dim=1) for tensor in (seen_keys, seen_values)]
    expected = form(queries.double() * 0.7, *doubled, dense & all_real[:, None, None])
    asks = real[:, past:]  # what a padded query gives does not matter
    difference = (output.transpose(1, 2) - expected) * asks[:, None, :, None]
    assert difference.abs().max() < 2e-4


def config_without_window() -> Config:
    config = Config()
    config.sliding_window = None
    return config


@pytest.mark.parametrize("implementation", [FAVOR, WINDOW])
@pytest.mark.parametrize("told_by", ["mask", "position_ids", "cu_seq_lens"])
def test_packed_documents_never_see_each_other(implementation: str, told_by: str) -> None:
    torch.manual_seed(3)
    config = config_for(implementation)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 3, 3]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 0, 1]])
    queries, keys, values = torch.randn(1, 4, 12, WIDTH), torch.randn(1, 2, 12, WIDTH), torch.randn(1, 2, 12, WIDTH)
    mask, told = None, {}
    if told_by == "mask":
        config._attn_implementation_internal = implementation
        mask = create_causal_mask(config, torch.zeros(1, 12, 4), None, None, position_ids=positions)
    elif told_by == "position_ids":
        told = {"position_ids": positions}
    else:
        told = {"cu_seq_lens_q": torch.tensor([0, 3, 9, 10, 12], dtype=torch.int32)}
    output, _ = FUNCTIONS[implementation](Module(config, True), queries, keys, values, mask, **told)
    allowed = ((documents[:, :, None] == documents[:, None]) & torch.ones(12, 12, dtype=torch.bool).tril())[:, None]
    if implementation == WINDOW:
        allowed = expected_window(allowed, torch.ones(1, 12, dtype=torch.bool), W, 12, True)
    form = dense_favor if implementation == FAVOR else dense_softmax
    expected = form(queries.double(), *(tensor.double().repeat_interleave(2, dim=1) for tensor in (keys, values)), allowed)
    assert (output.transpose(1, 2) - expected).abs().max() < 2e-4


@pytest.mark.parametrize("padded", [False, True])
def test_linformer_with_as_many_slots_as_tokens_is_exact(padded: bool) -> None:
    torch.manual_seed(5)
    config = config_for(LINFORMER)
    real = mask_of([(0, 0), (2, 3)], 11)
    mask = create_bidirectional_mask(config, torch.zeros(2, 11, 4), real.long() if padded else None)
    queries, keys, values = torch.randn(2, 4, 7, WIDTH), torch.randn(2, 2, 11, WIDTH), torch.randn(2, 2, 11, 6)
    output, _ = FUNCTIONS[LINFORMER](Module(config, False), queries, keys, values, mask)
    allowed = (real if padded else torch.ones_like(real))[:, None, None]
    expected = dense_softmax(queries.double(), *(tensor.double().repeat_interleave(2, dim=1) for tensor in (keys, values)), allowed)
    assert (output.transpose(1, 2) - expected).abs().max() < 1e-5


def test_linformer_means_count_as_many_tokens_as_they_hold() -> None:
    """Where the tokens of a run are equal, their mean says all: attention is exact."""
    torch.manual_seed(6)
    config = config_for(LINFORMER)
    config.subquadratic_attention = {"slots": 3}
    keys, values = torch.randn(1, 4, 3, WIDTH), torch.randn(1, 4, 3, WIDTH)
    repeats = torch.tensor([3, 3, 2])  # the runs of 8 tokens in 3 slots
    keys, values = keys.repeat_interleave(repeats, dim=2), values.repeat_interleave(repeats, dim=2)
    queries = torch.randn(1, 4, 5, WIDTH)
    output, _ = FUNCTIONS[LINFORMER](Module(config, False), queries, keys, values, None)
    expected = dense_softmax(queries.double(), keys.double(), values.double(), torch.ones(1, 1, 1, 8, dtype=torch.bool))
    assert (output.transpose(1, 2) - expected).abs().max() < 1e-5
