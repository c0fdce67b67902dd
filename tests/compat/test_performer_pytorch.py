"""The twin of performer-pytorch beside the published package: outputs, gradients and checkpoints, option by option; then what it mends."""

import copy
import pickle
import random
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import performer_pytorch as published
    import performer_pytorch.performer_pytorch as published_layers

from subquadratic.compat import performer_pytorch as twin
from subquadratic.core.errors import NotCausalError

EXACT, GRADIENT = 1e-5, 1e-4
LEAKY, LEAKY_GRADIENT = 2e-3, 2e-2  # causal: the published stabiliser sees the future


def distance(reference: Tensor, value: Tensor) -> float:
    """RMS of the difference over RMS of the reference."""
    scale = reference.double().pow(2).mean().sqrt().clamp_min(1e-12)
    return float(((reference.double() - value.double()).pow(2).mean().sqrt() / scale).detach())


@pytest.fixture
def without_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published causal attention, with each position computed from the tokens up to it alone."""
    whole = published_layers.FastAttention.forward

    def forward(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.causal:
            return whole(self, q, k, v)
        return torch.cat([whole(self, *(tensor[:, :, : i + 1] for tensor in (q, k, v)))[:, :, -1:] for i in range(q.shape[2])], dim=2)

    monkeypatch.setattr(published_layers.FastAttention, "forward", forward)


def pair(name: str, *args: Any, **options: Any) -> tuple[Any, Any, Any]:
    """The published module, its twin with the same weights, and a blank twin."""
    reference = getattr(published, name)(*args, **options)
    ours, blank = getattr(twin, name)(*args, **options), getattr(twin, name)(*args, **options)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours, blank


def compare(models: tuple[Any, Any, Any], *inputs: Any, bound: float = EXACT, gradient_bound: float = GRADIENT, **kwargs: Any) -> None:
    """Outputs, gradients of the parameters, and of the floating inputs."""
    reference, ours, blank = models
    alone = inputs[0].shape[1] == 1  # one key: queries and keys cannot matter
    results = []
    for model in (reference, ours):
        given = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        named = {name: x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in kwargs.items()}
        torch.manual_seed(5)  # the same dropout
        output = model(*given, **named)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
        model.zero_grad()
        (output * weight).sum().backward()
        leaves = [x for x in [*given, *named.values()] if isinstance(x, Tensor) and x.requires_grad]
        results.append((output.detach(), [x.grad for x in leaves]))
    (expected, expected_grads), (got, got_grads) = results
    assert distance(expected, got) <= bound
    for wanted, found in zip(expected_grads, got_grads, strict=True):
        assert (wanted is None) == (found is None)
        assert wanted is None or distance(wanted, found) <= gradient_bound
    parameters = dict(reference.named_parameters(remove_duplicate=False))
    wanted_state = {  # the published gradients under our names: loaded as if they were weights
        key: (torch.zeros_like(value) if parameters[key].grad is None else parameters[key].grad) if key in parameters else value
        for key, value in reference.state_dict().items()
    }
    blank.load_state_dict(wanted_state, strict=True)
    wanted_grads = {name: parameter.detach() for name, parameter in blank.named_parameters()}
    top = max((float(grad.abs().max()) for grad in wanted_grads.values()), default=0.0)
    for name, parameter in ours.named_parameters():
        if float(wanted_grads[name].abs().max()) > 1e-4 * top and not (alone and ("to_q" in name or "to_k" in name)):  # else rounding noise
            assert parameter.grad is not None, name
            assert distance(wanted_grads[name], parameter.grad) <= gradient_bound, name


def draw_language_model(r: random.Random) -> tuple[dict[str, Any], int]:
    """Constructor options, and a length."""
    heads = r.choice([1, 2, 4])
    depth = r.choice([1, 2])
    options: dict[str, Any] = {
        "num_tokens": 23, "max_seq_len": 40, "dim": 24, "depth": depth, "heads": heads, "dim_head": r.choice([8, None]),
        "causal": r.random() < 0.5, "nb_features": r.choice([None, 11, 20]), "reversible": r.random() < 0.3, "ff_glu": r.random() < 0.5,
        "ff_chunks": r.choice([1, 3]), "ff_mult": r.choice([2, 4]), "generalized_attention": r.random() < 0.3,
        "kernel_fn": r.choice([nn.ReLU(), nn.GELU(), nn.Softplus(), torch.exp]), "use_scalenorm": r.random() < 0.2,
        "use_rezero": r.random() < 0.2, "tie_embed": r.random() < 0.3, "qkv_bias": r.random() < 0.5, "attn_out_bias": r.random() < 0.5,
        "shift_tokens": r.random() < 0.3, "no_projection": r.random() < 0.2, "cross_attend": r.random() < 0.25,
        "local_window_size": r.choice([4, 7, 16]),
        "local_attn_heads": r.choice([0, 0, 1, heads, tuple(r.randint(0, heads) for _ in range(depth))]),
    }  # fmt: skip
    position = r.choice(["rotary", "axial", "three axes", "absolute"])
    options.update(rotary_position_emb=position == "rotary", axial_position_emb=position in ("axial", "three axes"))
    if position == "three axes":
        options["axial_position_shape"] = (2, 4, 5)
    if position == "rotary" and options["dim_head"] is None:
        options["dim_head"] = 6  # the published model needs a number here
    if r.random() < 0.3:
        options.update(emb_dropout=0.2, ff_dropout=0.2, attn_dropout=0.2)
    return options, r.choice([1, 5, 16, 40])


def check_language_model(seed: int) -> None:
    r = random.Random(f"performer {seed}")
    options, length = draw_language_model(r)
    torch.manual_seed(seed)
    models = pair("PerformerLM", **options)
    tokens = torch.randint(0, options["num_tokens"], (2, length))
    kwargs: dict[str, Any] = {"mask": torch.ones(2, length, dtype=torch.bool)} if r.random() < 0.5 else {}
    if options["cross_attend"]:
        kwargs["context"] = torch.randn(2, 9, options["dim"])
        if r.random() < 0.5:
            kwargs["context_mask"] = torch.ones(2, 9, dtype=torch.bool)
    compare(models, tokens, return_encodings=r.random() < 0.2, **kwargs)


def spell(options: dict[str, Any]) -> str:
    """A test's name: the same in every process, which the address in a function's repr is not."""
    return ",".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items())


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.usefixtures("without_leak")
def test_language_models_give_the_published_outputs_and_gradients(seed: int) -> None:
    check_language_model(seed)


@pytest.mark.parametrize("options", [{}, {"reversible": True, "shift_tokens": True}, {"local_attn_heads": 2, "ff_glu": True}], ids=spell)
def test_causal_language_models_are_near_the_published_ones_as_they_are(options: dict[str, Any]) -> None:
    models = pair("PerformerLM", num_tokens=23, max_seq_len=64, dim=32, depth=2, heads=4, dim_head=16, causal=True, **options)
    compare(models, torch.randint(0, 23, (2, 64)), bound=LEAKY, gradient_bound=LEAKY_GRADIENT)


ATTENTION: list[dict[str, Any]] = [
    {}, {"causal": True}, {"causal": True, "local_heads": 1, "local_window_size": 5}, {"local_heads": 3, "local_window_size": 4},
    {"local_heads": 1, "local_window_size": 5, "dropout": 0.3}, {"dim_head": None, "qkv_bias": True, "attn_out_bias": False},
    {"generalized_attention": True, "kernel_fn": torch.cos}, {"no_projection": True}, {"no_projection": True, "causal": True},
    {"generalized_attention": True, "causal": True, "feature_redraw_interval": 1},
]  # fmt: skip


@pytest.mark.parametrize("options", ATTENTION, ids=spell)
@pytest.mark.usefixtures("without_leak")
def test_standalone_self_attention(options: dict[str, Any]) -> None:
    models = pair("SelfAttention", 24, **{"heads": 3, "dim_head": 8, **options})
    x = torch.randn(2, 13, 24)
    compare(models, x)
    compare(models, x, mask=torch.ones(2, 13, dtype=torch.bool))
    width = models[1].dim_head
    compare(models, x, pos_emb=published_layers.FixedPositionalEmbedding(width, 40)(x))


@pytest.mark.parametrize("options", [{}, {"no_projection": True}, {"generalized_attention": True}, {"causal": True}], ids=spell)
@pytest.mark.usefixtures("without_leak")
def test_standalone_cross_attention(options: dict[str, Any]) -> None:
    models = pair("CrossAttention", 24, heads=3, dim_head=8, **options)
    x, context = torch.randn(2, 13, 24), torch.randn(2, 13 if options.get("causal") else 7, 24)
    compare(models, x, context=context)
    compare(models, x, context=context, context_mask=torch.ones(context.shape[:2], dtype=torch.bool))
    if options.get("causal"):
        with pytest.raises(ValueError, match="as many keys as queries, got 12 keys for 13"):
            models[1](x, context=context[:, :12])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [{}, {"ortho_scaling": 1}, {"nb_features": 5}, {"no_projection": True}], ids=spell)
@pytest.mark.usefixtures("without_leak")
def test_standalone_fast_attention(causal: bool, options: dict[str, Any]) -> None:
    models = pair("FastAttention", 8, causal=causal, **options)
    compare(models, *torch.randn(3, 2, 3, 11, 8).unbind())


@pytest.mark.parametrize("causal", [False, True])
def test_local_heads_far_from_the_start(causal: bool) -> None:
    models = pair("SelfAttention", 32, heads=2, dim_head=16, local_heads=2, causal=causal, local_window_size=64)
    compare(models, torch.randn(1, 1500, 32) * 3)


def test_performer_with_one_number_of_local_heads_per_layer() -> None:
    options = {"local_attn_heads": (0, 1, 2), "local_window_size": 4, "cross_attend": True, "reversible": True}
    models = pair("Performer", 16, 3, 2, 8, **options)
    compare(models, torch.randn(2, 10, 16), context=torch.randn(2, 5, 16))
    with pytest.raises(ValueError, match=r"one per layer \(2\)"):
        twin.Performer(16, 2, 2, 8, local_attn_heads=(0, 1, 2))


# Checkpoints


def small(**options: Any) -> Any:
    return twin.PerformerLM(**{"num_tokens": 11, "max_seq_len": 32, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, **options})


def test_state_dicts_have_one_name_per_tensor_whether_reversible_or_not() -> None:
    plain, reversible = small().state_dict(), small(reversible=True, max_seq_len=64).state_dict()
    assert list(plain) == list(reversible)
    assert len({tensor.data_ptr() for tensor in plain.values()}) == len(plain)
    small(reversible=True).load_state_dict(plain)


@pytest.mark.parametrize("reversible", [False, True])
def test_published_checkpoints_load_whatever_the_flags(reversible: bool) -> None:
    options = {"num_tokens": 11, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "local_attn_heads": 1}
    reference = published.PerformerLM(max_seq_len=32, reversible=reversible, **options)
    reference.performer.proj_updater.calls_since_last_redraw.fill_(41)
    state = reference.state_dict()
    longer = small(max_seq_len=4096, local_attn_heads=1, reversible=not reversible)
    longer.load_state_dict(state)
    assert longer.performer.proj_updater.calls_since_last_redraw == 41
    deduplicated = {key: value for key, value in state.items() if not key.startswith("performer.net.")}
    again = small(local_attn_heads=1)
    again.load_state_dict(deduplicated)
    for name, tensor in longer.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    for key in state:
        if ".instance." in key or key.endswith((".emb", "inv_freq")):
            continue
        partial = {name: tensor for name, tensor in state.items() if name not in (key, key.replace("r.net.", "r.proj_updater.instance."))}
        with pytest.raises(RuntimeError, match="Missing"):
            again.load_state_dict(partial)
    with pytest.raises(RuntimeError, match="Unexpected"):
        again.load_state_dict({**state, "performer.net.layers.0.0.fn.other": torch.zeros(1)})


def test_axial_tables_of_older_releases_load() -> None:
    model = small(rotary_position_emb=False, axial_position_emb=True)
    state = {key.replace("pos_emb.weights.", "pos_emb.weights_"): value for key, value in model.state_dict().items()}
    model.load_state_dict(state)


def test_pickle_and_deepcopy() -> None:
    model = small(reversible=True, local_attn_heads=1, use_rezero=True)
    tokens = torch.randint(0, 11, (2, 9))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.performer.proj_updater.instance is other.performer.net
        assert torch.equal(model(tokens), other(tokens))


# What the twin mends: masks, causality, streaming


MODELS: list[dict[str, Any]] = [
    {}, {"causal": True, "shift_tokens": True}, {"no_projection": True, "rotary_position_emb": False},
    {"causal": True, "no_projection": True}, {"generalized_attention": True, "causal": True, "reversible": True},
    {"local_attn_heads": 1, "local_window_size": 4, "shift_tokens": True},
    {"causal": True, "local_attn_heads": (2, 1), "local_window_size": 4},
]  # fmt: skip


@pytest.mark.parametrize("options", MODELS, ids=spell)
def test_padding_is_as_if_it_were_not_there(options: dict[str, Any]) -> None:
    model = small(**options).eval()
    tokens = torch.randint(1, 11, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    expected = model(tokens, mask=mask)
    for left, right in ((0, 5), (3, 0), (2, 4)):
        padded = nn.functional.pad(tokens, (left, right), value=7)
        spread = nn.functional.pad(mask, (left, right))
        assert distance(expected, model(padded, mask=spread)[:, left : left + 9]) < 1e-5
    mask[1] = False
    assert model(tokens, mask=mask).isfinite().all()
    x = torch.randn(2, 6, 16)
    x[:, 4:] = torch.nan
    real = torch.arange(6).expand(2, 6) < 4
    assert model.performer(x, mask=real)[:, :4].isfinite().all()


@pytest.mark.parametrize("options", [options for options in MODELS if options.get("causal")], ids=spell)
def test_the_future_changes_nothing(options: dict[str, Any]) -> None:
    model = small(**options).eval()
    x = torch.randn(1, 12, 16)
    later = x.clone()
    later[:, 7:] *= 8
    assert torch.equal(model.performer(x)[:, :7], model.performer(later)[:, :7])


@pytest.mark.parametrize("options", [options for options in MODELS if options.get("causal")], ids=spell)
@pytest.mark.parametrize("masked", [False, True])
def test_extend_over_any_split_is_forward(options: dict[str, Any], masked: bool) -> None:
    model = small(**options, cross_attend=True).eval()
    tokens, context = torch.randint(0, 11, (2, 20)), torch.randn(2, 5, 16)
    mask = torch.rand(2, 20) > 0.3 if masked else torch.ones(2, 20, dtype=torch.bool)
    seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = model(tokens, mask=mask, context=context, context_mask=seen)
    state, outputs = model.init_state(2, context=context, context_mask=seen), []
    for start, stop in ((0, 1), (1, 8), (8, 9), (9, 20)):
        logits, state = model.extend(tokens[:, start:stop], state, mask=mask[:, start:stop])
        outputs.append(logits)
    assert distance(expected[mask], torch.cat(outputs, dim=1)[mask]) < 1e-5


def test_only_causal_models_have_a_state() -> None:
    with pytest.raises(NotCausalError):
        small().init_state(1)


@pytest.mark.parametrize("options", MODELS, ids=spell)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_finite(options: dict[str, Any], dtype: torch.dtype) -> None:
    attention = twin.FastAttention(8, **{key: value for key, value in options.items() if key in ("causal", "no_projection")})
    q, k, v = (torch.randn(3, 1, 2, 20, 8) * 20).to(dtype).unbind()
    q.requires_grad_()
    attention(q, k, v).sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()
    model = small(**options)
    with torch.autocast("cpu", dtype):
        loss = model.performer(torch.randn(1, 9, 16) * 20).square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.performer.parameters() if p.grad is not None)


# Redraws


def test_forward_calls_are_counted_as_published() -> None:
    options = {"num_tokens": 11, "max_seq_len": 32, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "feature_redraw_interval": 3}
    reference, ours, _ = pair("PerformerLM", **options)
    tokens = torch.randint(0, 11, (1, 5))
    for step in range(9):
        if step == 5:
            reference.performer.proj_updater.calls_since_last_redraw.fill_(2)
            ours.performer.proj_updater.calls_since_last_redraw.fill_(2)
        before = [model.state_dict()[key].clone() for model, key in zip((reference, ours), projection_names(reference, ours), strict=True)]
        for model in (reference, ours):
            model.train()(tokens)
            model.eval()(tokens)
        after = [model.state_dict()[key] for model, key in zip((reference, ours), projection_names(reference, ours), strict=True)]
        assert torch.equal(before[0], after[0]) == torch.equal(before[1], after[1])
        counts = [model.performer.proj_updater.calls_since_last_redraw for model in (reference, ours)]
        assert counts[0] == counts[1]


def projection_names(*models: nn.Module) -> list[str]:
    return [next(key for key in model.state_dict() if key.endswith("projection_matrix")) for model in models]


def test_processes_redraw_the_same_features_whatever_their_random_state() -> None:
    first = small(feature_redraw_interval=0)
    second = copy.deepcopy(first)
    start = first.performer.net.layers[0][0].fn.fast_attention.projection_matrix.clone()
    torch.manual_seed(1)
    first.train().check_redraw_projections()
    torch.manual_seed(2)
    second.train().check_redraw_projections()
    matrices = [[value for key, value in model.state_dict().items() if key.endswith("projection_matrix")] for model in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*matrices, strict=True))
    assert not torch.equal(start, matrices[0][0]) and not torch.equal(matrices[0][0], matrices[0][1])


def test_a_redraw_between_forward_and_backward_does_no_harm() -> None:
    model = small(feature_redraw_interval=1, auto_check_redraw=True)
    tokens = torch.randint(0, 11, (1, 5))
    (model(tokens).sum() + model(tokens).sum() + model(tokens).sum()).backward()


def test_redraw_and_fix() -> None:
    model = small(feature_redraw_interval=0, depth=1)
    matrix = model.performer.net.layers[0][0].fn.fast_attention.projection_matrix
    model.redraw_(torch.Generator().manual_seed(1))
    drawn = matrix.clone()
    model.redraw_()
    assert not torch.equal(drawn, matrix)
    model.redraw_(torch.Generator().manual_seed(1))
    assert torch.equal(drawn, matrix)
    model.fix_projection_matrices_()
    model.train()(torch.zeros(1, 3, dtype=torch.int64))
    assert torch.equal(drawn, matrix)
    updater = twin.ProjectionUpdater(model, 0)
    assert list(updater.state_dict()) == ["calls_since_last_redraw"]
    x = torch.zeros(1)
    assert updater(x) is x and not torch.equal(drawn, matrix)
