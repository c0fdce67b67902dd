"""The Feedback Transformer against a loop over tokens, layers and heads, and the laws of the contract."""

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from subquadratic.attention.feedback.buckets import relative_bucket_reference
from subquadratic.models.config import BackboneConfig
from subquadratic.models.feedback_transformer.backbone import FeedbackTransformer, FeedbackTransformerConfig

OPTIONS = {
    "paper": {},
    "short memory": {"memory_length": 2},
    "segments": {"segment_length": 3},
    "segments longer than the memory": {"segment_length": 4, "memory_length": 3},
    "maps per layer": {"share_key_value": False},
    "maps per layer, segments": {"share_key_value": False, "segment_length": 3, "memory_length": 5},
    "last hidden": {"keep_last_hidden": True, "segment_length": 2},
    "no bias": {"relative_bias": False},
    "far": {"relative_buckets": 4, "relative_max_distance": 6},
    "scale": {"norm": "scale", "segment_length": 2},
    "rezero": {"norm": "rezero", "segment_length": 2},
    "plain feed-forward": {"ff_glu": False, "ff_chunks": 2},
    "context": {"cross_attention": True, "context_dim": 6},
    "context, segments": {"cross_attention": True, "segment_length": 3, "memory_length": 4},
    "checkpointing": {"checkpointing": True, "segment_length": 2},
    "wide heads": {"head_dim": 8, "heads": 3},
}
EVERY = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def build(options: dict[str, object], dtype: torch.dtype = torch.float64) -> FeedbackTransformer:
    """A small model whose every parameter is away from its special starting value."""
    config = FeedbackTransformerConfig(**{"dim": 8, "depth": 2, "heads": 2, "memory_length": 6, **options})
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(dtype)


def contexts(model: FeedbackTransformer, batch: int) -> dict[str, Tensor]:
    if not model.config.cross_attention:
        return {}
    context_mask = torch.rand(batch, 5) < 0.7
    context_mask[-1] = False
    dtype = model.stack.memory.key_value.weight.dtype
    return {"context": torch.randn(batch, 5, model.config.context_dim or model.config.dim, dtype=dtype), "context_mask": context_mask}


def rms(reference: Tensor, value: Tensor) -> float:
    return ((reference - value).pow(2).mean().sqrt() / reference.pow(2).mean().sqrt().clamp_min(1e-30)).item()


def reference_row(model: FeedbackTransformer, x: Tensor, context: Tensor | None = None) -> Tensor:
    """One unpadded row (N, D), a token, a layer and a head at a time."""
    config, memory = model.config, model.stack.memory
    maps = memory.key_value.weight.view(memory.groups, 2, config.heads, config.head_width, config.dim)
    memories: list[Tensor] = []
    inside: list[list[Tensor]] = [[] for _ in range(config.depth)]  # per layer, the normed hidden state of each token
    outputs = []
    for t, h in enumerate(x):
        begin = t // config.segment_length * config.segment_length
        hidden = [h]
        for index, layer in enumerate(model.stack.layers):
            normed = h if layer.norm is None else layer.norm(h)
            inside[index].append(normed)
            seen = [(i, memories[i]) for i in range(max(0, begin - config.memory_length), begin)]
            if config.segment_length > 1:
                seen += [(i, inside[index][i]) for i in range(begin, t + 1)]
            if seen:
                heads = []
                for head in range(config.heads):
                    query = layer.attention.query(normed).view(config.heads, -1)[head]
                    key_map, value_map = maps[index % memory.groups, :, head]
                    scores = torch.stack([query @ (key_map @ source) / config.head_width**0.5 for _, source in seen])
                    if model.relative_bias is not None:
                        buckets = [
                            relative_bucket_reference(t - i, buckets=config.relative_buckets, max_distance=config.relative_max_distance)
                            for i, _ in seen
                        ]
                        scores = scores + model.relative_bias.table[buckets, head]
                    heads.append(scores.softmax(0) @ torch.stack([value_map @ source for _, source in seen]))
                delta = layer.attention.output(torch.cat(heads))
                h = h + (delta if layer.gain is None else layer.gain(delta))
            if layer.cross_attention is not None and context is not None and len(context):
                cross = layer.cross_attention
                normed = h if cross.norm is None else cross.norm(h)
                queries, keys, values = (
                    m(source).unflatten(-1, (config.heads, -1)).movedim(-2, 0)
                    for m, source in ((cross.layer.query, normed[None]), (cross.layer.key, context), (cross.layer.value, context))
                )
                delta = cross.layer.output(F.scaled_dot_product_attention(queries, keys, values).flatten())
                h = h + (delta if cross.gain is None else cross.gain(delta))
            h = h + layer.feed_forward(h[None, None], {})[0, 0]
            hidden.append(h)
        outputs.append(h)
        merged = h if memory.layer_weight is None else sum(w * part for w, part in zip(memory.layer_weight.softmax(0), hidden, strict=True))
        memories.append(memory.norm(merged))
    return torch.stack(outputs)


def splits(length: int) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < length:
        sizes.append(min(int(torch.randint(1, 6, ())), length - sum(sizes)))
    return sizes


def stream(model: FeedbackTransformer, x: Tensor, sizes: list[int], mask: Tensor | None = None, **context: Tensor) -> Tensor:
    state = model.init_state(x.shape[0], **context)
    outputs = []
    for i, piece in enumerate(x.split(sizes, dim=1)):
        y, state = model.extend(piece, state, mask=None if mask is None else mask.split(sizes, dim=1)[i])
        outputs.append(y)
    return torch.cat(outputs, dim=1)


@EVERY
def test_forward_is_the_definition_and_padding_is_as_if_absent(options: dict[str, object]) -> None:
    model = build(options)
    x = torch.randn(4, 11, 8, dtype=torch.float64)
    mask = torch.rand(4, 11) < 0.7
    mask[0], mask[2, :4] = True, False
    context = contexts(model, 4)
    y = model(x.masked_fill(~mask[..., None], torch.nan), mask=mask, **context)
    for row in range(4):
        own = context["context"][row, context["context_mask"][row]] if context else None
        assert rms(reference_row(model, x[row, mask[row]], own), y[row, mask[row]]) < 1e-12
    assert (y[~mask] == 0).all()


@EVERY
@pytest.mark.parametrize("padded", [False, True])
def test_extend_over_any_split_is_forward_with_its_gradients(options: dict[str, object], padded: bool) -> None:
    model = build(options)
    x = torch.randn(3, 13, 8, dtype=torch.float64, requires_grad=True)
    mask = None
    if padded:
        mask = torch.rand(3, 13) < 0.7
        mask[2] = False
    context = contexts(model, 3)
    leaves = [x, *model.parameters()]
    whole = model(x, mask=mask, **context)
    expected = torch.autograd.grad(whole.square().sum(), leaves)
    for sizes in ([13], [1] * 13, splits(13)):
        y = stream(model, x, sizes, mask, **context)
        assert rms(whole, y) < 1e-12
        for gradient, other in zip(expected, torch.autograd.grad(y.square().sum(), leaves), strict=True):
            assert torch.allclose(gradient, other, rtol=1e-8, atol=1e-10)


@EVERY
def test_gradients_are_those_of_the_definition(options: dict[str, object]) -> None:
    model = build(options)
    x = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
    context = contexts(model, 2)
    leaves = [x, *model.parameters()]
    y = model(x, **context)
    rows = [reference_row(model, x[i], context["context"][i, context["context_mask"][i]] if context else None) for i in range(2)]
    weights = torch.randn_like(y)
    found = torch.autograd.grad((y * weights).sum(), leaves)
    for gradient, other in zip(torch.autograd.grad((torch.stack(rows) * weights).sum(), leaves), found, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-8, atol=1e-10)


@EVERY
def test_the_future_changes_nothing(options: dict[str, object]) -> None:
    model = build(options, torch.float32)
    x = torch.randn(2, 9, 8)
    changed = torch.cat((x[:, :5], x[:, 5:] * 8 + 3), dim=1)
    context = contexts(model, 2)
    assert torch.equal(model(x, **context)[:, :5], model(changed, **context)[:, :5])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x, **context)[:, :5].sum(), x)
    assert (gradient[:, 5:] == 0).all()


@EVERY
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "autocast float16", "autocast bfloat16"])
def test_half_precision_is_finite(options: dict[str, object], precision: str) -> None:
    *autocast, name = precision.split()
    half = getattr(torch, name)
    model = build(options, torch.float32 if autocast else half)
    x = (torch.randn(2, 9, 8) * 20).to(torch.float32 if autocast else half).requires_grad_()
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :2], mask[1] = False, False
    context = contexts(model, 2)
    with torch.autocast("cpu", half, enabled=bool(autocast)):
        y = model(x, mask=mask, **context)
        state = model.init_state(2, **context)
        z, state = model.extend(x[:, :4], state, mask=mask[:, :4])
        z = torch.cat((z, model.extend(x[:, 4:], state, mask=mask[:, 4:])[0]), dim=1)
    assert y.dtype == z.dtype == x.dtype
    assert rms(y.float(), z.float()) < 0.03
    y.float().mean().backward()
    for tensor in (y, x.grad, *(p.grad for p in model.parameters())):
        assert tensor is not None and torch.isfinite(tensor).all()


def test_a_recomputed_backward_with_dropout_repeats_its_random_numbers() -> None:
    options = {"dropout": 0.3, "attention_dropout": 0.3, "segment_length": 2}
    plain = build(options)
    again = build({**options, "checkpointing": True})
    again.load_state_dict(plain.state_dict())
    gradients = []
    for model in (plain, again):
        torch.manual_seed(1)
        x = torch.ones(2, 7, 8, dtype=torch.float64).cumsum(1).requires_grad_()
        y = model(x * torch.arange(8))
        gradients.append((y, torch.autograd.grad(y.square().sum(), [x, *model.parameters()])))
    assert torch.equal(gradients[0][0], gradients[1][0])
    for first, second in zip(gradients[0][1], gradients[1][1], strict=True):
        assert torch.allclose(first, second)


def test_two_forwards_one_backward_a_kept_graph_and_partial_gradients() -> None:
    model = build({"segment_length": 2})
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    early, late = x[:, :4].clone().requires_grad_(), x[:, 4:].clone().requires_grad_()
    y = model(torch.cat((early, late), dim=1)).square().sum()
    both = torch.autograd.grad(y, [early, late], retain_graph=True)
    (only_late,) = torch.autograd.grad(y, [late], retain_graph=True)  # leaves gradients of early memories unclaimed
    again = torch.autograd.grad(y, [early, late], retain_graph=True)
    for gradient, other in zip((*both, both[1]), (*again, only_late), strict=True):
        assert torch.equal(gradient, other)
    other_y = model(torch.cat((late, early), dim=1)).square().sum()
    separate = torch.autograd.grad(other_y, early, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(y + other_y, early)[0], both[0] + separate)


def test_truncated_back_propagation() -> None:
    model = build({"segment_length": 2, "detach_every": 4})
    free = build({"segment_length": 2})
    free.load_state_dict(model.state_dict())
    x = torch.randn(2, 11, 8, dtype=torch.float64, requires_grad=True)
    y = model(x)
    assert torch.equal(y, free(x))
    state, pieces = free.init_state(2), []
    for piece in x.split(4, dim=1):
        part, state = free.extend(piece, state.detach())
        pieces.append(part)
    leaves = [x, *model.parameters()]
    expected = torch.autograd.grad(torch.cat(pieces, dim=1).square().sum(), [x, *free.parameters()])
    for gradient, other in zip(expected, torch.autograd.grad(y.square().sum(), leaves), strict=True):
        assert torch.allclose(gradient, other, rtol=1e-8, atol=1e-10)
    whole = torch.autograd.grad(free(x).square().sum(), x)[0]
    assert not torch.allclose(whole, expected[0])


def test_the_window_forgets_exactly_what_is_older() -> None:
    model = build({"depth": 1, "memory_length": 3})  # with one layer, a memory made of it carries older tokens on
    model.stack.memory.layer_weight.data = torch.tensor([40.0, -40.0], dtype=torch.float64)  # so look at the input only
    x = torch.randn(1, 8, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3] = torch.randn(8, dtype=torch.float64)
    same = (model(x) - model(changed)).abs().amax(dim=(0, 2)) < 1e-12
    assert same.tolist() == [True, True, True, False, False, False, False, True]


@pytest.mark.parametrize("segment_length", [1, 3])
def test_states_are_immutable_and_can_be_reset_reordered_and_pickled(segment_length: int) -> None:
    model = build({"segment_length": segment_length}).eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    _, state = model.extend(x, model.init_state(3))
    state = state.detach()
    kept = copy.deepcopy(state)
    rows = torch.tensor([False, True, False])
    next_x = torch.randn(3, 4, 8, dtype=torch.float64)
    y, after = model.extend(next_x, state.reset(rows))
    assert torch.allclose(y[1:2], model(next_x[1:2]))
    assert torch.allclose(y[0], model(torch.cat((x, next_x), dim=1))[0, 5:])
    assert after.seen.tolist() == [9, 4, 9]
    order = torch.tensor([2, 2, 0])
    assert torch.allclose(model.extend(next_x[order], state.reorder(order))[0], model.extend(next_x, state)[0][order])
    loaded = pickle.loads(pickle.dumps(state))
    for tensor, other, third in zip(state.tensors(), kept.tensors(), loaded.tensors(), strict=True):
        assert torch.equal(tensor, other) and torch.equal(tensor, third)
    assert state.nbytes() == model.init_state(3).nbytes() == after.nbytes()


def test_state_dicts_do_not_depend_on_how_the_model_runs() -> None:
    keys = set(build({}).state_dict())
    for options in (
        {"segment_length": 4},
        {"memory_length": 99},
        {"checkpointing": True},
        {"dropout": 0.2, "attention_dropout": 0.1},
        {"detach_every": 3},
    ):
        assert set(build(options).state_dict()) == keys
    model = build({"keep_last_hidden": True})
    assert "stack.memory.layer_weight" not in model.state_dict()
    assert len({tensor.data_ptr() for tensor in model.state_dict().values()}) == len(model.state_dict())
    x = torch.randn(1, 4, 8, dtype=torch.float64)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(twin(x), model(x))
    assert BackboneConfig.from_dict(model.config.to_dict()) == model.config


def test_export_in_eval() -> None:
    model = build({"segment_length": 2, "depth": 1}).eval()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reversible": True}, "reversible must be False"),
        ({"positions": "rotary"}, "positions must be"),
        ({"causal": False}, "causal must be True"),
        ({"segment_length": 0}, "segment_length must be"),
        ({"memory_length": 0}, "memory_length must be"),
        ({"segment_length": 3, "detach_every": 4}, "detach_every must be a multiple"),
        ({"context_dim": 4}, "context_dim is for"),
        ({"relative_buckets": 1}, "relative_buckets must be"),
        ({"relative_max_distance": 9}, "relative_max_distance must be"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(options)


def test_bad_calls_are_refused() -> None:
    model = build({}, torch.float32)
    x = torch.randn(2, 3, 8)
    with pytest.raises(ValueError, match="cross_attention=True"):
        model(x, context=x)
    with pytest.raises(ValueError, match="pass context"):
        build({"cross_attention": True})(x)
    with pytest.raises(ValueError, match="state must have the batch"):
        model.extend(x, model.init_state(3))
    with pytest.raises(ValueError, match="pairwise"):
        model(x, mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(TypeError):
        model(x, attn_mask=None)
