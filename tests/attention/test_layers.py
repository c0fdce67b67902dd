"""The drop-in layers, each by itself: against the papers' formulas in float64, under the laws, with contexts."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subquadratic as sq
from subquadratic.attention import AdditiveAttention, FavorAttention, LowRankAttention, SoftmaxAttention, WindowAttention
from subquadratic.attention.favor.features import softmax_exponents
from subquadratic.attention.favor.formula import linear_attention_reference
from subquadratic.layers.rotary.op import rotation

DIM, HEADS, LENGTH = 12, 3, 17
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "favor": (FavorAttention, {"features": 10}),
    "favor-rotary": (FavorAttention, {"features": 10, "rotary": True, "qkv_bias": True}),
    "favor-epsilon": (FavorAttention, {"features": 10, "feature_epsilon": 1e-2}),
    "favor-relu": (FavorAttention, {"kernel": "relu"}),
    "favor-callable": (FavorAttention, {"kernel": torch.exp}),
    "favor-efficient": (FavorAttention, {"kernel": "efficient"}),
    "favor-local": (FavorAttention, {"local_heads": 2, "local_window": 4, "rotary": True}),
    "favor-all-local": (FavorAttention, {"local_heads": 3, "local_window": 4}),
    "low-rank": (LowRankAttention, {"max_length": 30, "slots": 4}),
    "low-rank-shared": (LowRankAttention, {"max_length": 30, "slots": 4, "share": "kv", "one_kv_head": True}),
    "low-rank-conv": (LowRankAttention, {"max_length": 30, "slots": 4, "projection": "conv"}),
    "additive": (AdditiveAttention, {}),
    "additive-rotary": (AdditiveAttention, {"rotary": True, "share_query_value": False}),
    "window": (WindowAttention, {"window": 5}),
    "window-blocks": (WindowAttention, {"window": 5, "blocks": True, "rotary": True}),
    "softmax": (SoftmaxAttention, {}),
    "softmax-rotary": (SoftmaxAttention, {"rotary": True, "qk_norm": True}),
}
WITH_CONTEXT = ["favor", "favor-epsilon", "favor-relu", "favor-efficient", "low-rank", "low-rank-conv", "softmax"]


def make(name: str, **options: Any) -> nn.Module:
    kind, own = LAYERS[name]
    return kind(DIM, **{"heads": HEADS, **own, **options}).double().eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_padding_anywhere_is_as_if_it_were_not_there(name: str, causal: bool) -> None:
    layer, x = make(name, causal=causal), noise(4, LENGTH, DIM)
    mask = torch.ones(4, LENGTH, dtype=torch.bool)
    mask[0, :5], mask[1, -4:], mask[2, 6:9], mask[3] = False, False, False, False
    y = layer(x, mask=mask)
    for row in range(3):
        torch.testing.assert_close(y[row, mask[row]], layer(x[row : row + 1, mask[row]])[0], rtol=1e-6, atol=1e-9)
    assert not y[~mask].any()
    assert torch.equal(layer(x.masked_fill(~mask[..., None], torch.nan), mask=mask), y)


@pytest.mark.parametrize("name", LAYERS)
def test_forward_equals_extend(name: str) -> None:
    layer, x = make(name, causal=True), noise(2, LENGTH, DIM)
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, 3:6] = False
    for given, borders in itertools.product((None, mask), ((0, 17), (0, 1, 2, 3, 17), (0, 10, 17))):
        state, parts = layer.init_state(2), []
        for a, b in itertools.pairwise(borders):
            y, state = layer.extend(x[:, a:b], state, mask=None if given is None else given[:, a:b])
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, dim=1), layer(x, mask=given), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_the_future_changes_no_bit(name: str) -> None:
    layer, x = make(name, causal=True).float(), noise(2, LENGTH, DIM).float()
    changed = x.clone()
    changed[:, 9:] *= 8
    assert torch.equal(layer(x)[:, :9], layer(changed)[:, :9])


@pytest.mark.parametrize("name", LAYERS)
def test_bidirectional_layers_do_not_stream(name: str) -> None:
    with pytest.raises(sq.NotCausalError, match="bidirectional"):
        make(name, causal=False).init_state(2)


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_contexts_of_another_length_and_width(name: str) -> None:
    layer = make(name, context_dim=7)
    x, context = noise(3, 5, DIM), noise(3, 11, 7, seed=1)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, :4], mask[1, -3:], mask[2] = False, False, False
    y = layer(x, context=context, context_mask=mask)
    for row in range(2):
        expected = layer(x[row : row + 1], context=context[row : row + 1, mask[row]])
        torch.testing.assert_close(y[row : row + 1], expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(y[2], layer.output.bias.expand(5, DIM))  # nothing to attend to
    state = layer.init_state(3, context=context, context_mask=mask)
    streamed, _ = layer.extend(x[:, :2], state)
    torch.testing.assert_close(streamed, y[:, :2], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_a_context_for_a_causal_layer_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="causal=False"):
        make(name, causal=True)(noise(1, 5, DIM), context=noise(1, 5, DIM))
    with pytest.raises(ValueError, match="without a context"):
        make(name)(noise(1, 5, DIM), context_mask=torch.ones(1, 5, dtype=torch.bool))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("additive")])
def test_the_weights_shown_give_the_output(name: str, causal: bool) -> None:
    layer, x = make(name, causal=causal), noise(2, LENGTH, DIM)
    y, weights = layer(x, return_attention=True)
    assert weights.shape == (2, HEADS, LENGTH, LENGTH)
    values = layer.value(x).unflatten(-1, (-1, DIM // HEADS)).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.output(mixed), y, rtol=1e-6, atol=1e-9)
    if causal:
        assert not weights.triu(1).any()
    if not name.startswith("low-rank"):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_favor_is_equation_4_of_the_paper(causal: bool) -> None:
    layer, x = make("favor", causal=causal), noise(2, LENGTH, DIM)
    q, k, v = (m(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in (layer.query, layer.key, layer.value))
    log_q, log_k = (softmax_exponents(tensor, layer.favor.projection)[0] for tensor in (q, k))
    mixed = linear_attention_reference(log_q, log_k, v, causal=causal)
    torch.testing.assert_close(layer(x), layer.output(mixed.transpose(1, 2).flatten(2)), rtol=1e-7, atol=1e-10)


def test_many_features_approach_softmax_attention_and_the_error_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 64, 16, generator=generator, dtype=torch.float64) * 0.5 for _ in range(2))
    v = torch.randn(1, 1, 64, 16, generator=generator, dtype=torch.float64)
    errors = []
    for features in (16, 256, 4096):
        layer = FavorAttention(16, heads=1, features=features, generator=torch.Generator().manual_seed(1)).double()
        errors.append(layer.approximation_error(q, k, v))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.1
    assert FavorAttention(16, heads=1, features=64).double().approximation_error(q * 8, k * 8, v) > 0.8  # where random features fail


@pytest.mark.parametrize("causal", [True, False])
def test_linformer_is_equation_7_of_the_paper(causal: bool) -> None:
    layer, x = make("low-rank", causal=causal), noise(1, LENGTH, DIM)
    e, f = layer.projection.key_weights[:LENGTH], layer.projection.value_weights[:LENGTH]
    q, k, v = (m(x)[0].unflatten(-1, (HEADS, -1)).transpose(0, 1) for m in (layer.query, layer.key, layer.value))
    rows = []
    for i in range(LENGTH):
        stop = i + 1 if causal else LENGTH
        key_slots, value_slots = e[:stop].T @ k[:, :stop], f[:stop].T @ v[:, :stop]
        scores = (q[:, i : i + 1] @ key_slots.transpose(1, 2) * (DIM // HEADS) ** -0.5).softmax(dim=-1)
        rows.append((scores @ value_slots).flatten())
    torch.testing.assert_close(layer(x)[0], layer.output(torch.stack(rows)), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_fastformer_is_equations_3_to_7_of_the_paper(causal: bool) -> None:
    layer, x = make("additive", causal=causal), noise(1, LENGTH, DIM)
    q, k = layer.query(x)[0], layer.key(x)[0]
    width = DIM // HEADS
    rows = []
    p_rows, p = [], None
    for i in range(LENGTH):
        stop = i + 1 if causal else LENGTH
        alpha = (q[:stop] @ layer.query_logits.T / width**0.5).softmax(dim=0)  # (stop, H)
        global_query = torch.cat([alpha[:, h] @ q[:stop, h * width : (h + 1) * width] for h in range(HEADS)])
        p = k * global_query
        p_rows.append(p[i])
    products = torch.stack(p_rows) if causal else p
    for i in range(LENGTH):
        stop = i + 1 if causal else LENGTH
        beta = (products[:stop] @ layer.key_logits.T / width**0.5).softmax(dim=0)
        global_key = torch.cat([beta[:, h] @ products[:stop, h * width : (h + 1) * width] for h in range(HEADS)])
        rows.append(layer.output(layer.transform(q[i] * global_key) + q[i]))
    torch.testing.assert_close(layer(x)[0], torch.stack(rows), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_rotary_fastformer_depends_on_distances_only(causal: bool) -> None:
    layer, x = make("additive-rotary", causal=causal), noise(1, LENGTH, DIM)
    positions = torch.arange(LENGTH)
    near, far = (layer(x, turns=rotation(places, layer.width)) for places in (positions, positions + 1000))
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-4)  # angles are float32


def test_redrawing_is_explicit_and_seeded() -> None:
    layer = make("favor")
    before = layer.favor.projection.clone()
    layer.train()(noise(1, 5, DIM))
    assert torch.equal(layer.favor.projection, before)
    layer.redraw_(torch.Generator().manual_seed(3))
    drawn = layer.favor.projection.clone()
    assert not torch.equal(drawn, before)
    layer.redraw_(torch.Generator().manual_seed(3))
    assert torch.equal(layer.favor.projection, drawn)


@pytest.mark.parametrize("name", ["favor", "low-rank", "additive"])
def test_a_step_costs_the_same_wherever_it_is(name: str) -> None:
    layer = make(name, causal=True, **({"max_length": 5000} if name == "low-rank" else {}))
    state = layer.init_state(1)
    size = state.nbytes()
    _, state = layer.extend(noise(1, 4000, DIM), state)
    assert state.nbytes() == size


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FavorAttention, {"kernel": "sofmax"}, "did you mean 'softmax'"),
        (FavorAttention, {"local_heads": 5}, "local_heads must be an integer from 0 to heads=3, got 5"),
        (FavorAttention, {"feature_epsilon": -1.0}, "feature_epsilon must be at least 0"),
        (FavorAttention, {"kernel": "relu", "feature_epsilon": 0.1}, "feature_epsilon is for kernel='softmax'"),
        (FavorAttention, {"kernel": "efficient", "features": 3}, "features must be None"),
        (FavorAttention, {"head_dim": 5, "rotary": True}, "head_dim must be even"),
        (LowRankAttention, {"max_length": None, "causal": True}, "needs max_length"),
        (LowRankAttention, {"max_length": 8, "share": "key"}, "share must be one of"),
        (WindowAttention, {"window": 0}, "window must be an integer of at least 1, got 0"),
        (SoftmaxAttention, {"dropout": 2.0}, "dropout is a probability"),
        (AdditiveAttention, {"heads": 5}, "dim must be divisible by heads"),
    ],
)
def test_options_out_of_range_are_named(kind: type[nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(DIM, **{"heads": HEADS, **options})


def test_a_sequence_over_max_length_is_refused_also_while_streaming() -> None:
    layer = make("low-rank", causal=True)
    with pytest.raises(ValueError, match="the sequence has 31 positions, but max_length is 30"):
        layer(noise(1, 31, DIM))
    _, state = layer.extend(noise(1, 30, DIM), layer.init_state(1))
    with pytest.raises(ValueError, match="the sequence has 31 positions"):
        layer.extend(noise(1, 1, DIM), state)
    mask = torch.ones(1, 35, dtype=torch.bool)
    mask[:, :5] = False
    assert layer(noise(1, 35, DIM), mask=mask).isfinite().all()  # thirty real ones
