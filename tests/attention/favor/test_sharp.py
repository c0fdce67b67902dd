"""FAVOR+ with centred, balanced and optimally spread features: what the ops compute of it, fixed geometries, and what they promise."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import subquadratic as sq
from subquadratic.attention import FavorAttention
from subquadratic.attention.favor.features import orthogonal_gaussian
from subquadratic.attention.favor.fitting import fitting
from subquadratic.attention.favor.fixed import FixedFeatures
from subquadratic.attention.favor.formula import linear_attention_reference
from subquadratic.attention.favor.geometry import apply, feature_bias, geometry_of, moments_of
from subquadratic.attention.favor.sharp import causal_favor_attention, favor_attention
from subquadratic.attention.softmax.op import softmax_attention
from subquadratic.core.backend import use_backend

WIDTH, FEATURES = 6, 10
OPTIONS = [
    {"estimator": estimator, "center": center, "balance": balance}
    for estimator, center, balance in itertools.product(("positive", "optimal", "dense"), (False, True), (None, "channel", "full"))
]
BEST = {"estimator": "dense", "center": True, "balance": "full"}


def inputs(length: int, *, size: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, length, 3, WIDTH, generator=generator, dtype=torch.float64).transpose(2, 3)
    return (size * q + 0.5).to(dtype), (size * k - 0.3).to(dtype), v.to(dtype)


def projected(seed: int = 0, features: int = FEATURES) -> Tensor:
    return orthogonal_gaussian(features, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definition(q: Tensor, k: Tensor, v: Tensor, w: Tensor, mask: Tensor | None, options: dict[str, object]) -> Tensor:
    """The exponents written down as the papers have them, and softmax over keys of the logarithm of the kernel."""
    found = geometry_of(moments_of(q, mask), moments_of(k, mask), **options)  # type: ignore[arg-type]
    q, k = q * WIDTH**-0.25, k * WIDTH**-0.25
    c = torch.zeros(WIDTH) if found.query_mean is None else found.query_mean
    q, k = q - c, k - (0 if found.key_mean is None else found.key_mean)
    pull = (k * c).sum(-1, keepdim=True)
    q, k = apply(q, found.query_map), apply(k, found.key_map)
    bias = feature_bias(w, found)
    log_q = apply(q, found.stretch) @ w.T + (0.0 if bias is None else bias[:, :, None])
    log_k = apply(k, found.stretch) @ w.T - k.square().sum(-1, keepdim=True) / 2 + pull
    return linear_attention_reference(log_q, log_k, v, causal=False, mask=mask)


@settings(max_examples=40, deadline=None)
@given(
    options=st.sampled_from(OPTIONS), backend=st.sampled_from(("torch", "auto")), masked=st.booleans(), length=st.integers(1, 40),
    size=st.sampled_from((0.3, 1.0, 5.0)), seed=st.integers(0, 1000),
)  # fmt: skip
def test_bidirectional_equals_the_definition(
    options: dict[str, object], backend: str, masked: bool, length: int, size: float, seed: int
) -> None:
    q, k, v = inputs(length, size=size, seed=seed)
    w = projected(seed)
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) > 0.3 if masked else None
    with use_backend(backend):
        found = favor_attention(q, k, v, w, mask=mask, **options)  # type: ignore[arg-type]
    true = definition(q, k, v, w, mask, options)
    if mask is not None:  # statistics are of real queries, and only those count
        found, true = (x.masked_fill(~mask[:, None, :, None], 0.0) for x in (found, true))
    torch.testing.assert_close(found, true, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_float32_by_the_kernels_is_float64_but_for_rounding(options: dict[str, object]) -> None:
    q, k, v = inputs(70, size=1.5)
    exact = favor_attention(q, k, v, projected(), **options)  # type: ignore[arg-type]
    found = favor_attention(q.float(), k.float(), v.float(), projected(), **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_many_features_are_softmax(options: dict[str, object], causal: bool) -> None:
    q, k, v = inputs(30, size=0.5)
    w = projected(features=6000)
    if causal:
        fixed = FixedFeatures(3, w, **options).double()  # type: ignore[arg-type]
        fixed.fit_(q, k, w)
        found = causal_favor_attention(q, k, v, w, fixed.value)[0]
    else:
        found = favor_attention(q, k, v, w, **options)  # type: ignore[arg-type]
    exact = softmax_attention(q, k, v, causal=causal)
    assert (found - exact).norm() < 0.06 * exact.norm()


@pytest.mark.parametrize("length", [2, 8, 14, 20])
def test_fewer_tokens_than_channels_are_as_precise_in_float32(length: int) -> None:
    q, k, v = 3 * torch.randn(3, 4, 4, length, 32, generator=torch.Generator().manual_seed(length))
    k = k * torch.logspace(-1.5, 0.3, 32)  # moments of few tokens have eigenvalues of nothing but their ridge
    w = orthogonal_gaussian(256, 32, generator=torch.Generator().manual_seed(0))
    found, exact = favor_attention(q, k, v, w, **BEST), favor_attention(q.double(), k.double(), v.double(), w.double(), **BEST)  # type: ignore[arg-type]
    assert (found - exact).norm() < 2e-4 * exact.norm()


def test_the_best_options_err_least_on_sharp_attention() -> None:
    q, k, v = inputs(60, size=1.0)
    unlike = torch.tensor([3.0, 2.0, 1.0, 1.0, 1 / 2, 1 / 3], dtype=torch.float64)
    q, k = q * unlike, k / unlike
    exact = softmax_attention(q, k, v, causal=False)

    def error(**options: object) -> float:
        draws = [favor_attention(q, k, v, projected(seed, 64), **options) for seed in range(10)]  # type: ignore[arg-type]
        return sum(float((y - exact).norm() / exact.norm()) for y in draws) / len(draws)

    assert error(**BEST) < 0.7 * error()


@pytest.mark.parametrize("options", [BEST, {"estimator": "optimal", "center": True, "balance": "channel"}, {"center": True}], ids=str)
def test_a_fitted_causal_layer_streams_and_leaks_nothing(options: dict[str, object]) -> None:
    layer = FavorAttention(12, heads=2, causal=True, rotary=True, features=8, **options).double().eval()  # type: ignore[arg-type]
    x = 2 * torch.randn(2, 21, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    with torch.no_grad():
        before = layer(x)
        with fitting(layer):
            layer(x)
        whole, state, pieces = layer(x), layer.init_state(2), []
        assert not torch.allclose(whole, before)
        for piece in (x[:, :1], x[:, 1:2], x[:, 2:9], x[:, 9:]):
            y, state = layer.extend(piece, state)
            pieces.append(y)
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
        changed = torch.cat((x[:, :10], 8 * x[:, 10:]), dim=1)
        assert torch.equal(layer(changed)[:, :10], whole[:, :10])
        changed[:, 15] = torch.nan
        assert torch.equal(layer(changed)[:, :10], whole[:, :10])


def test_fitting_goes_through_a_model_and_is_saved_with_it(tmp_path: Path) -> None:
    config = sq.PerformerConfig(dim=16, depth=2, heads=2, features=12, **BEST)  # type: ignore[arg-type]
    model = sq.LanguageModel(config, vocab_size=20).eval()
    tokens = torch.randint(20, (3, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, 20:] = False
    with torch.no_grad(), fitting(model):
        fitted = model(tokens, mask=mask)
    torch.testing.assert_close(model(tokens, mask=mask), fitted)  # hooks are gone, and one call was enough
    model.save_pretrained(tmp_path)
    assert torch.equal(sq.LanguageModel.from_pretrained(tmp_path)(tokens), model(tokens))
    model.redraw_(torch.Generator().manual_seed(5))
    for module in model.modules():
        if isinstance(module, FixedFeatures):
            assert module.bias is not None
            bias = feature_bias(_projection(model, module), module.value.geometry)
            torch.testing.assert_close(module.bias, bias)


def _projection(model: torch.nn.Module, fixed: FixedFeatures) -> Tensor:
    return next(m.projection for m in model.modules() if getattr(m, "fixed", None) is fixed)  # type: ignore[return-value]


def test_fitting_needs_something_to_fit() -> None:
    with pytest.raises(ValueError, match="nothing to fit"), fitting(FavorAttention(8, heads=2)):
        pass
    with pytest.raises(ValueError, match="nothing was fitted"), fitting(FavorAttention(8, heads=2, causal=True, **BEST)):  # type: ignore[arg-type]
        pass


def test_a_fixed_geometry_stays_in_float32() -> None:
    layer = FavorAttention(8, heads=2, causal=True, **BEST).bfloat16()  # type: ignore[arg-type]
    assert {x.dtype for x in layer.favor.fixed.buffers()} == {torch.float32}  # type: ignore[union-attr]
    assert {x.dtype for x in layer.double().favor.fixed.buffers()} == {torch.float64}  # type: ignore[union-attr]


def test_without_options_nothing_is_added() -> None:
    assert not [name for name in FavorAttention(8, heads=2).state_dict() if "fixed" in name]
    q, k, v = inputs(9)
    layer = FavorAttention(12, heads=3, head_dim=WIDTH)
    assert torch.equal(favor_attention(q, k, v, layer.favor.projection), layer.favor(q, k, v, causal=False))  # type: ignore[union-attr]


def test_cross_attention_of_a_piece_is_that_of_the_whole() -> None:
    layer = FavorAttention(12, heads=2, features=8, **BEST).double().eval()  # type: ignore[arg-type]
    x, context = torch.randn(2, 2, 11, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad(), fitting(layer):
        layer(x, context=context)
    whole, state = layer(x, context=context), layer.init_state(2, context=context)
    torch.testing.assert_close(torch.cat([layer.extend(x[:, n : n + 1], state)[0] for n in range(11)], dim=1), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "best"}, "estimator must be one of"),
        ({"balance": "all"}, "balance must be one of"),
        ({"center": "yes"}, "center must be True or False"),
        ({"center": True, "kernel": "relu"}, "center is for kernel='softmax'"),
        ({"estimator": "dense", "feature_epsilon": 1e-3}, "estimator has no feature_epsilon"),
        ({"estimator": "dense", "orthogonal_scaling": 1}, "orthogonal_scaling must be 0"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FavorAttention(8, heads=2, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        sq.PerformerConfig(dim=8, depth=1, heads=2, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [2, 5, 9])
def test_few_tokens_span_few_directions_and_keep_every_number_finite(length: int) -> None:
    """Second moments of rank 1 to 8 in 32 channels of unlike sizes: what is left of the product of both is rounding."""
    generator = torch.Generator().manual_seed(length)
    sizes = torch.logspace(-2, 0.7, 32)
    q, k, v = (torch.randn(4, 64, length, 32, generator=generator) * sizes[torch.randperm(32, generator=generator)] for _ in range(3))
    q, k = q.requires_grad_(), k.requires_grad_()
    drawn = orthogonal_gaussian(64, 32, generator=generator, dtype=torch.float32)
    output = favor_attention(q, k, v, drawn, estimator="dense", center=True, balance="full")
    output.square().sum().backward()
    assert output.isfinite().all()
    assert q.grad is not None and q.grad.isfinite().all()
    assert k.grad is not None and k.grad.isfinite().all()
