"""Perceiver AR against loops over positions, and its streams against recomputing everything for every token."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subquadratic.attention.latent.layer import LatentAttention
from subquadratic.models.config import BackboneConfig
from subquadratic.models.configs.perceiver_ar import PerceiverARConfig
from subquadratic.models.perceiver_ar import PerceiverAR

DIM = 8
SMALL = {"dim": DIM, "depth": 2, "heads": 2, "latents": 4}


def backbone(**options: object) -> PerceiverAR:
    """A small model in float64 and eval mode, with weights large enough that every part counts."""
    model = PerceiverARConfig(**{**SMALL, **options}).build().double().eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def inputs(*shape: int, std: float = 1.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.double) * std


# --- the definition, one position at a time ---------------------------------------------------------------------------


def turned(vector: Tensor, position: int) -> Tensor:
    """RoFormer's rotation of one (K,) vector; angles are float64, sines and cosines float32 by contract."""
    rates = 1.0 / 10000.0 ** (torch.arange(0, len(vector), 2, dtype=torch.float64) / len(vector))
    cosine, sine = (position * rates).cos().float().double(), (position * rates).sin().float().double()
    first, second = vector.chunk(2)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine))


def attend(layer: LatentAttention, query: Tensor, sources: list[Tensor], first: int = 0) -> Tensor:
    """What one token, the last of ``sources``, takes from them; they stand at positions from ``first``."""
    turn = turned if layer.rotary else lambda vector, position: vector
    heads, width = [], layer.width
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        one = turn(layer.query(query)[part], first + len(sources) - 1)
        scores = [one @ turn(layer.key(source)[part], first + j) / width**0.5 for j, source in enumerate(sources)]
        weights = torch.stack(scores).softmax(dim=0)
        heads.append(sum(weight * layer.value(source)[part] for weight, source in zip(weights, sources, strict=True)))
    return layer.output(torch.cat(heads))


def reference(model: PerceiverAR, tokens: Tensor, latents: int) -> Tensor:
    """Outputs of the last ``latents`` of (N, D) real tokens: every sum in the open. For norms "layer" and "scale", one stream."""
    total = tokens.shape[0]
    first = total - min(total, latents)
    x = list(tokens[first:])
    for layer in model.cross:
        context = [layer.context_norm(token) for token in tokens]
        x = [token + attend(layer.attention, layer.norm(token), context[: first + i + 1]) for i, token in enumerate(x)]
        x = [token + layer.feed_forward(token[None, None], {})[0, 0] for token in x]
    for block in model.stack.blocks:
        normed = [block["attention"].norm(token) for token in x]
        x = [token + attend(block["attention"].layer, normed[i], normed[: i + 1], first) for i, token in enumerate(x)]
        x = [token + block["feed_forward"](token[None, None], {})[0, 0] for token in x]
    return torch.stack(x)


@pytest.mark.parametrize(
    "options", [{}, {"cross_depth": 2, "norm": "scale"}, {"positions": None, "ff_glu": True, "head_dim": 6, "depth": 1}]
)
@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
def test_forward_is_the_definition(options: dict[str, object], length: int) -> None:
    model, x = backbone(**options), inputs(1, length, DIM)
    torch.testing.assert_close(model(x)[0], reference(model, x[0], 4), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("latents", [1, 2, 7, 100])
def test_latents_can_be_given_per_call(latents: int) -> None:
    model, x = backbone(), inputs(1, 7, DIM)
    y = model(x, latents=latents)
    assert y.shape == (1, min(7, latents), DIM)
    torch.testing.assert_close(y[0], reference(model, x[0], latents), rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_definition() -> None:
    model, x = backbone(), inputs(1, 7, DIM).requires_grad_()
    wanted = [x, *model.parameters()]
    ours = torch.autograd.grad(model(x).square().sum(), wanted)
    theirs = torch.autograd.grad(reference(model, x[0], 4).square().sum(), wanted)
    for mine, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, theirs_, rtol=1e-8, atol=1e-8)


# --- masks ------------------------------------------------------------------------------------------------------------


def ragged_mask(kind: str, batch: int, length: int) -> Tensor:
    mask = torch.ones(batch, length, dtype=torch.bool)
    if kind == "left":
        mask[0, : length // 3], mask[1, : length - 2] = False, False
    elif kind == "right":
        mask[0, -(length // 3) :], mask[1, 2:] = False, False
    elif kind == "holes":
        mask = torch.rand(batch, length) < torch.tensor([0.3, 0.6, 0.95])[:batch, None]
    elif kind == "empty":
        mask[0], mask[1, 2 : length - 2] = False, False
    return mask


@pytest.mark.parametrize("norm", ["layer", "rezero"])
@pytest.mark.parametrize("kind", ["left", "right", "holes", "empty"])
def test_each_row_is_its_real_tokens_aligned_right(kind: str, norm: str) -> None:
    model, x, mask = backbone(norm=norm), inputs(3, 11, DIM), ragged_mask(kind, 3, 11)
    y = model(x.masked_fill(~mask[..., None], torch.nan), mask=mask)
    assert y.shape == (3, 4, DIM)
    for row in range(3):
        count = min(int(mask[row].sum()), 4)
        assert not y[row, : 4 - count].any()
        if count:
            torch.testing.assert_close(y[row, 4 - count :], model(x[row, mask[row]][None])[0])


def test_an_empty_row_has_zero_outputs_and_finite_gradients() -> None:
    model, x = backbone(), inputs(2, 6, DIM).requires_grad_()
    mask = torch.tensor([[False] * 6, [True] * 6])
    y = model(x, mask=mask)
    y.sum().backward()
    assert not y[0].any() and x.grad is not None and not x.grad[0].any()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_future_changes_nothing_to_the_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        model, x = backbone(cross_depth=2).to(dtype), inputs(2, 9, DIM).to(dtype)
        for place in range(6, 9):
            changed = x.clone()
            changed[:, place:] *= 8.0
            assert torch.equal(model(changed)[:, : place - 5], model(x)[:, : place - 5])


# --- prefix dropout ---------------------------------------------------------------------------------------------------


def seen_places(model: PerceiverAR, x: Tensor, mask: Tensor | None) -> Tensor:
    """The positions that the cross layers attend to, (B, S)."""
    seen = []
    handle = model.cross[0].register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs["places"]), with_kwargs=True)
    model(x, mask=mask)
    handle.remove()
    return seen[0].expand(x.shape[0], -1)


def test_prefix_dropout_leaves_out_its_share_of_real_tokens() -> None:
    model, x = backbone(prefix_dropout=0.3).train(), inputs(3, 24, DIM)
    mask = torch.ones(3, 24, dtype=torch.bool)
    mask[0, :10], mask[1] = False, False
    for given in (None, mask, torch.ones_like(mask)):
        places = seen_places(model, x, given)
        assert places.shape == (3, 24 - 6)  # 6 = int(0.3 * 20)
        for row in range(3):
            count = 24 if given is None else int(given[row].sum())
            kept = places[row][places[row] >= 0].tolist()
            prefix = max(count - 4, 0)
            assert len(set(kept)) == len(kept) == count - int(prefix * 0.3)
            assert kept[len(kept) - min(count, 4) :] == list(range(prefix, count))  # the latents all stay


def test_prefix_dropout_draws_anew_keeps_positions_and_rests_in_eval() -> None:
    model, x = backbone(prefix_dropout=0.5, depth=1).train(), inputs(1, 12, DIM)
    chosen = {tuple(sorted(seen_places(model, x, None)[0].tolist())) for _ in range(8)}
    assert len(chosen) > 3
    torch.manual_seed(3)
    dropped = model(x)
    torch.manual_seed(3)
    places = seen_places(model, x, None)[0]
    plain = model.eval()
    cache = plain.cross[0].read(x[:, places], places)
    y = plain.cross[0](x[:, 8:], None, positions=torch.arange(8, 12), places=None, allowed=None, cache=cache)
    torch.testing.assert_close(dropped, plain.stack(y, positions=torch.arange(8, 12)))
    assert torch.equal(plain(x), plain(x))
    without = backbone(depth=1)
    without.load_state_dict(plain.state_dict())
    assert torch.equal(plain(x), without(x))


# --- streams ----------------------------------------------------------------------------------------------------------


def expected_outputs(model: PerceiverAR, tokens: Tensor, width: int) -> Tensor:
    """By the rule in ``extend``, for one row of (t, D) real tokens: the last ``width`` outputs, all recomputed."""
    config, total, rows = model.config, tokens.shape[0], []
    whole = model(tokens[None])[0] if total else tokens
    for count in range(total - width + 1, total + 1):
        if count < 1:
            rows.append(torch.zeros(DIM, dtype=tokens.dtype))
        elif config.refill == "exact":
            rows.append(whole[whole.shape[0] - 1 - (total - count)])
        else:
            rows.append(model(tokens[None, :count], latents=config.latents_at(count))[0, -1])
    return torch.stack(rows)


def check_stream(model: PerceiverAR, x: Tensor, mask: Tensor, sizes: list[int], *, masked: bool) -> None:
    batch, length = mask.shape
    poisoned, state, start = x.masked_fill(~mask[..., None], torch.nan), model.init_state(batch), 0
    while start < length:
        size = min(sizes[start % len(sizes)], length - start)
        stop = start + size
        y, state = model.extend(poisoned[:, start:stop], state, mask=mask[:, start:stop] if masked else None)
        width = min(size, model.config.latents)
        assert y.shape == (batch, width, DIM)
        assert state.seen.tolist() == mask[:, :stop].sum(dim=1).tolist()
        for row in range(batch):
            expected = expected_outputs(model, x[row, :stop][mask[row, :stop]], width)
            torch.testing.assert_close(y[row], expected, rtol=1e-9, atol=1e-9)
        start = stop


@pytest.mark.parametrize("kind", ["none", "left", "right", "holes", "empty"])
@pytest.mark.parametrize("sizes", [[1], [1, 1, 3, 1, 2], [7, 1, 1, 1], [13, 2], [40]], ids=str)
@pytest.mark.parametrize("refill", ["exact", 1, 2, 3])
@torch.no_grad()
def test_streams_follow_the_rule(refill: str | int, sizes: list[int], kind: str) -> None:
    model = backbone(refill=refill, depth=1, cross_depth=2 if refill == 2 else 1)
    mask = ragged_mask(kind, 3, 20)
    check_stream(model, inputs(3, 20, DIM), mask, sizes, masked=kind != "none")


@pytest.mark.parametrize(
    "options", [{"latents": 1}, {"latents": 2, "refill": 1}, {"latents": 64, "refill": 9}, {"reversible": True, "refill": 2}]
)
@torch.no_grad()
def test_streams_at_the_edges(options: dict[str, object]) -> None:
    model, x = backbone(**options), inputs(2, 12, DIM)
    check_stream(model, x, torch.ones(2, 12, dtype=torch.bool), [1, 2], masked=False)
    check_stream(model, x, ragged_mask("holes", 2, 12), [1, 2], masked=True)


@torch.no_grad()
def test_padding_may_begin_in_the_middle_of_a_stream() -> None:
    for refill in ("exact", 2):
        model, x, mask = backbone(refill=refill), inputs(2, 9, DIM), torch.ones(2, 9, dtype=torch.bool)
        mask[0, 6:8] = False
        _, state = model.extend(x[:, :6], model.init_state(2))
        assert state.empty is None
        y, state = model.extend(x[:, 6:], state, mask=mask[:, 6:])
        for row in range(2):
            torch.testing.assert_close(y[row], expected_outputs(model, x[row, mask[row]], 3), rtol=1e-9, atol=1e-9)
        assert state.empty is not None and state.empty.tolist() == [2, 0]


def test_latents_at_drops_and_refills() -> None:
    config = PerceiverARConfig(**SMALL, refill=2)  # type: ignore[arg-type]
    assert [config.latents_at(count) for count in range(12)] == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2]
    assert [PerceiverARConfig(**SMALL).latents_at(count) for count in (0, 3, 4, 5, 50)] == [0, 3, 4, 4, 4]  # type: ignore[arg-type]


@pytest.mark.parametrize("refill, full", [(2, [2, 1, 1, 2, 1, 1]), ("exact", [4, 4, 4, 4, 4, 4])])
@torch.no_grad()
def test_between_drops_a_step_runs_one_latent(refill: str | int, full: list[int]) -> None:
    model, widths = backbone(refill=refill), []
    model.stack.register_forward_pre_hook(lambda stack, given: widths.append(given[0].shape[1]))
    state = model.init_state(1)
    for _ in range(10):
        _, state = model.extend(inputs(1, 1, DIM), state)
    assert widths == [1, 1, 1, 1, *full]


@torch.no_grad()
def test_the_state_is_not_changed_and_its_rows_can_be_moved() -> None:
    model, x = backbone(refill=2), inputs(3, 14, DIM)
    mask = ragged_mask("holes", 3, 14)
    for stop in (3, 8, 10):
        _, state = model.extend(x[:, :stop], model.init_state(3), mask=mask[:, :stop])
        before = [tensor.clone() for tensor in state.tensors()]
        y, _ = model.extend(x[:, stop:], state, mask=mask[:, stop:])
        assert all(torch.equal(old, new) for old, new in zip(before, state.tensors(), strict=True))
        order = torch.tensor([2, 0, 0])
        moved, _ = model.extend(x[order, stop:], state.reorder(order), mask=mask[order, stop:])
        torch.testing.assert_close(moved, y[order])
        alone, _ = model.extend(x[1:2, stop:], state.select([1]), mask=mask[1:2, stop:])
        torch.testing.assert_close(alone, y[1:2])


@torch.no_grad()
def test_the_state_keeps_no_more_than_it_says() -> None:
    model = backbone()
    _, state = model.extend(inputs(1, 500, DIM), model.init_state(1))
    _, state = model.extend(inputs(1, 1, DIM), state)
    assert sum(tensor.untyped_storage().nbytes() for tensor in state.tensors()) <= 2 * state.nbytes()  # some places to spare, no views
    assert state.tokens.shape[1] == state.outputs.shape[1] == 4 and state.inputs[0].keys.shape[2] == 501


# --- the other laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "scale", "rezero"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, "autocast"])
def test_loud_input_stays_finite(dtype: torch.dtype | str, norm: str) -> None:
    torch.manual_seed(1)
    model = PerceiverARConfig(dim=32, depth=2, heads=2, latents=4, norm=norm, refill=2).build()
    model = model if isinstance(dtype, str) else model.to(dtype)
    x = torch.randn(2, 12, 32, dtype=torch.float32 if isinstance(dtype, str) else dtype) * 20
    x.requires_grad_()
    mask = ragged_mask("left", 2, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=isinstance(dtype, str)):
        for given in (None, mask):
            y = model(x, mask=given)
            assert y.isfinite().all()
            gradients = torch.autograd.grad(y.float().square().mean(), [x, *model.parameters()])
            assert all(gradient.isfinite().all() for gradient in gradients)
        state = model.init_state(2)
        for start in range(0, 12, 3):
            y, state = model.extend(x[:, start : start + 3], state)
            assert y.isfinite().all()


def test_checkpointing_and_reversibility_change_keys_and_gradients_nowhere() -> None:
    plain, x = backbone(prefix_dropout=0.5, dropout=0.2).train(), inputs(2, 9, DIM).requires_grad_()
    thrifty, reversible = backbone(prefix_dropout=0.5, dropout=0.2, checkpointing=True).train(), backbone(reversible=True)
    assert plain.state_dict().keys() == thrifty.state_dict().keys() == reversible.state_dict().keys()
    thrifty.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, thrifty):
        torch.manual_seed(5)
        results.append(torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()]))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)
    tensors = list(plain.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


def test_round_trips() -> None:
    model, x = backbone(), inputs(2, 7, DIM)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    for refill in ("exact", 3):
        config = PerceiverARConfig(**SMALL, refill=refill)  # type: ignore[arg-type]
        assert BackboneConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "options, message",
    [
        ({"latents": 0}, "latents must be an integer of at least 1, got 0"),
        ({"cross_depth": 0}, "cross_depth must be"),
        ({"prefix_dropout": 1.0}, "prefix_dropout is a probability"),
        ({"refill": "sometimes"}, "refill must be 'exact' or an integer of at least 1 and less than latents=4, got 'sometimes'"),
        ({"refill": 4}, "refill must be"),
        ({"refill": 0}, "refill must be"),
        ({"refill": True}, "refill must be"),
        ({"causal": False}, "causal must be True for perceiver_ar"),
    ],
)
def test_settings_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceiverARConfig(**{**SMALL, **options})  # type: ignore[arg-type]


def test_arguments_are_checked() -> None:
    model, x = backbone(), inputs(2, 5, DIM)
    for call in (lambda: model(x[..., :-1]), lambda: model(x, latents=0), lambda: model(x, mask=torch.ones(5, 5, dtype=torch.bool))):
        with pytest.raises(ValueError, match="must be"):
            call()
    with pytest.raises(ValueError, match="mask must be bool"):
        model.extend(x, model.init_state(2), mask=torch.ones(2, 5))
    with pytest.raises(TypeError):
        model(x, latent=3)
    with pytest.raises(TypeError):
        PerceiverARConfig(**SMALL, latent=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("masked", [False, True])
def test_export(masked: bool) -> None:
    model, x = backbone(), inputs(2, 9, DIM)
    arguments = {"mask": ragged_mask("left", 2, 9)} if masked else {}
    program = torch.export.export(model, (x,), arguments)
    torch.testing.assert_close(program.module()(x, **arguments), model(x, **arguments))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "options, backend", [({"prefix_dropout": 0.5}, "aot_eager"), ({"reversible": True}, "aot_eager"), ({"cross_depth": 2}, "inductor")]
)
def test_compiles_whole(options: dict[str, object], backend: str, masked: bool) -> None:
    torch._dynamo.reset()
    model, x = backbone(**options).train(), inputs(2, 9, DIM)
    mask = ragged_mask("left", 2, 9) if masked else None
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    results = []
    for run in (model, compiled):
        torch.manual_seed(2)
        y = run(x, mask=mask)
        results.append([y, *torch.autograd.grad(F.mse_loss(y, torch.zeros_like(y)), list(model.parameters()))])
    for eager, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-6)  # rotary angles are float32
