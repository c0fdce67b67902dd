"""Law 1: forward over a sequence equals extend over any split of it, up to rounding.

A Perceiver AR whose latents are full follows a rule of its own, tested in tests/models/test_perceiver_ar.py; here it is
tested while they grow.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import subquadratic as sq
from subquadratic.kernels.native.library import why_not
from subquadratic.models import backbone

from .matrix import configs, inputs, language_model, tokens
from .streaming import ROWS, built, causal_configs, check_law, length_for, masks, plans

OWN_HEADS = ("backbone", "language_model", "classifier")


def pieces(length: int, cuts: list[int]) -> list[slice]:
    borders = [0, *sorted(set(cuts)), length]
    return [slice(a, b) for a, b in itertools.pairwise(borders) if b > a]


@pytest.fixture(scope="module", autouse=True)
def short_stretches() -> Iterator[None]:
    """Checkpointing streams a long sequence through all layers; let it do so with these short ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "STRETCH", 5 * ROWS)
        yield


HEADS = [
    *(pytest.param(*param.values, head, id=f"{head}-{param.id}") for head in OWN_HEADS for param in causal_configs(cross=False)),
    *(pytest.param(*param.values, "encoder_decoder", id=f"encoder_decoder-{param.id}") for param in causal_configs(cross=True)),
]


@pytest.mark.parametrize(("config", "head"), [param for param in HEADS if param.values[1] in ("language_model", "encoder_decoder")])
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_forward_equals_extend_over_any_split(config: sq.BackboneConfig, head: str, data: st.DataObject) -> None:
    """Single tokens and longer pieces in any order, with and without gradients and padding."""
    check_any_split(config, head, data)


@pytest.mark.parametrize(("config", "head"), [param for param in HEADS if param.values[1] in ("backbone", "classifier")])
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_so_it_does_without_a_head_and_with_another(config: sq.BackboneConfig, head: str, data: st.DataObject) -> None:
    check_any_split(config, head, data)


def check_any_split(config: sq.BackboneConfig, head: str, data: st.DataObject) -> None:
    length = length_for(config)
    check_law(built(head, config, torch.float64), config, data.draw(plans(length)), data.draw(masks(length)), tolerance=1e-6)


# Not those whose features have either sign: no C kernel computes them, and a normaliser near zero magnifies the rounding of float32.
ROUNDED = [param for param in HEADS if param.values[1] in ("language_model", "encoder_decoder") and "-signed-" not in str(param.id)]


@pytest.mark.parametrize(("config", "head"), ROUNDED)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_the_c_kernels_follow_it_too(config: sq.BackboneConfig, head: str, data: st.DataObject, native: str) -> None:
    """In float32, so to its rounding."""
    length = length_for(config)
    case = built(head, config, torch.float32)
    check_law(case, config, data.draw(plans(length)), data.draw(masks(length)), tolerance=2e-3, backend=native)


@pytest.fixture(scope="module")
def native() -> str:
    """The C kernels, where there is a compiler; PyTorch's operations in float32 where there is none."""
    return "torch" if why_not() else "auto"


@pytest.mark.parametrize("config", configs(causal=True))
def test_token_by_token_with_padding_in_every_row(config: sq.BackboneConfig) -> None:
    length = length_for(config)
    backbone, x = config.build().double().eval(), inputs(4, length, config.dim)
    mask = torch.ones(4, length, dtype=torch.bool)
    mask[0, :3], mask[1, -2:], mask[2, 2:4], mask[3] = False, False, False, False
    state, parts = backbone.init_state(4), []
    for i in range(length):
        y, state = backbone.extend(x[:, i : i + 1], state, mask=mask[:, i : i + 1])
        parts.append(y)
    streamed, whole = torch.cat(parts, dim=1), backbone(x, mask=mask)
    for row in range(4):
        real = whole[row, -int(mask[row].sum()) :] if config.aligned_right else whole[row, mask[row]]
        if mask[row].any():
            torch.testing.assert_close(streamed[row, mask[row]], real, rtol=1e-6, atol=1e-8)
        else:
            assert not streamed[row].any() and not whole[row].any()


@pytest.mark.parametrize("config", configs(causal=True))
def test_extend_leaves_the_state_it_was_given(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(2, 5)
    _, state = model.extend(x, model.init_state(2))
    before = [tensor.clone() for tensor in state.tensors()]
    model.extend(x, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors(), strict=True))


@pytest.mark.parametrize("config", configs(causal=True))
def test_states_can_be_reordered_repeated_selected(config: sq.BackboneConfig) -> None:
    model, x = language_model(config), tokens(3, 5)
    _, state = model.extend(x, model.init_state(3))
    following = tokens(3, 2, seed=2)
    expected, _ = model.extend(following, state)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model.extend(following[order], state.reorder(order))[0], expected[order])
    doubled, _ = model.extend(following.repeat_interleave(2, dim=0), state.repeat(2))
    torch.testing.assert_close(doubled, expected.repeat_interleave(2, dim=0))
    torch.testing.assert_close(model.extend(following[1:2], state.select([1]))[0], expected[1:2])
    assert state.nbytes() == sum(tensor.nbytes for tensor in state.tensors()) > 0
    assert not any(tensor.requires_grad for tensor in state.detach().tensors())


@pytest.mark.parametrize("config", configs(causal=True))
def test_a_classifier_streams_too(config: sq.BackboneConfig) -> None:
    length = length_for(config)
    model = sq.SequenceClassifier(config, vocab_size=13, num_classes=3, max_length=40).double().eval()
    x, state = tokens(2, length), model.init_state(2)
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[0, :2] = False
    for piece in pieces(length, [1, 4]):
        logits, state = model.extend(x[:, piece], state, mask=mask[:, piece])
    torch.testing.assert_close(logits, model(x, mask=mask), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", configs(causal=False))
def test_bidirectional_models_say_that_they_cannot_stream(config: sq.BackboneConfig) -> None:
    with pytest.raises(sq.NotCausalError, match="causal=True"):
        config.build().init_state(1)
