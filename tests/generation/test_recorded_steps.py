"""Decoding by a recording gives what the model gives, bit for bit, whatever happens in between."""

import gc
import weakref
from collections import OrderedDict
from typing import Any

import pytest
import torch
from tests.generation.test_step_cache import (
    CONSTANT,
    GROWING,
    SMALL,
    Loud,
    assert_states_stay,
    begun,
    changed_midway,
    choices,
    eager,
    model,
    redraw,
    replace,
    replace_one,
    scale,
)
from tests.laws.matrix import configs
from torch import Tensor

import subquadratic as sq
from subquadratic.generation import recorded_steps, step_cache
from subquadratic.generation.step_cache import _of_models
from subquadratic.replay.recorded_calls import Recording

RECORDED = {name: config for name, config in CONSTANT.items() if name != "feedback"}  # which looks at how full its memory is
recorded = pytest.mark.parametrize("config", RECORDED.values(), ids=RECORDED.keys())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each recorded step."""
    calls: list[int] = []
    bind = Recording.bind

    def noted(self: Recording, constants: Any) -> Any:
        program = bind(self, constants)

        def run(*inputs: Tensor) -> Any:
            calls.append(len(inputs))
            return program(*inputs)

        return run

    monkeypatch.setattr(Recording, "bind", noted)
    return calls


@recorded
@pytest.mark.parametrize("padded", [False, True])
def test_recorded_steps_equal_steps(config: sq.BackboneConfig, padded: bool, ran: list[int]) -> None:
    mask = torch.tensor([[True] * 6, [False] * 4 + [True] * 2]) if padded else None
    net = model(config)
    found = choices(begun(net, mask=mask), 14)
    assert len(ran) >= 14 - 1 - recorded_steps.PATIENCE - 2
    assert torch.equal(found, choices(begun(eager(net), mask=mask), 14))


@pytest.mark.parametrize("config", configs(causal=True))
def test_every_configuration(config: sq.BackboneConfig) -> None:
    torch.manual_seed(0)
    net = sq.LanguageModel(config, vocab_size=11, max_length=40).eval()
    first, second = (begun(net, rows) for rows in (2, 1))
    twin = eager(net)
    assert torch.equal(choices(first, 12), choices(begun(twin), 12))
    assert torch.equal(choices(second, 12), choices(begun(twin, 1), 12))


@recorded
def test_the_next_text_begins_with_the_recording_of_the_last(config: sq.BackboneConfig, ran: list[int]) -> None:
    net = model(config)
    choices(begun(net), 12)
    ran.clear()
    assert torch.equal(choices(begun(net), 8), choices(begun(eager(net)), 8))
    assert len(ran) >= 5
    assert len(_of_models[net].recordings) == 1


@pytest.mark.parametrize("config", GROWING.values(), ids=GROWING.keys())
def test_a_state_that_grows_is_left_alone(config: sq.BackboneConfig, ran: list[int]) -> None:
    net = model(config)
    decoding = begun(net)
    assert torch.equal(choices(decoding, 12), choices(begun(eager(net)), 12))
    assert not ran and decoding._steps.own is None


@recorded
def test_a_state_once_taken_stays_what_it_is(config: sq.BackboneConfig, ran: list[int]) -> None:
    assert_states_stay(begun(model(config)), 10)
    assert len(ran) > 2


@recorded
def test_reading_repeating_and_going_back_between_steps(config: sq.BackboneConfig, ran: list[int]) -> None:
    def told(net: Any) -> list[Tensor]:
        decoding = begun(net, 1)
        parts = [choices(decoding, 8)]
        back = decoding.state
        decoding.read(torch.tensor([[1, 2, 3]]))
        decoding.repeat(2)
        parts.append(choices(decoding, 8))
        decoding.unchoose()
        decoding.read(torch.tensor([[4], [5]]), torch.tensor([[True], [True]]))
        parts.append(choices(decoding, 5))
        other = begun(net, 1)
        other.state = back
        parts.append(choices(other, 8))
        return parts

    net = model(config)
    for mine, theirs in zip(told(net), told(eager(net)), strict=True):
        assert torch.equal(mine, theirs)
    assert len(ran) > 8


@pytest.mark.parametrize("change", [scale, replace, replace_one, redraw])
def test_weights_may_change_between_tokens(change: Any, ran: list[int]) -> None:
    net = model(CONSTANT["performer"])
    twin = eager(net)
    assert torch.equal(changed_midway(net, change, 8), changed_midway(twin, change, 8))
    assert ran


@pytest.mark.parametrize("known", [True, False], ids=["found", "made"])
def test_recordings_may_be_thrown_away_at_any_moment(known: bool, monkeypatch: pytest.MonkeyPatch, ran: list[int]) -> None:
    """As by another thread that decodes with the same model after its weights were replaced."""

    class Forgetful(OrderedDict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            found = super().__contains__(key)
            self.clear()
            return found

        def __len__(self) -> int:
            count = super().__len__()
            self.clear()
            return count

    net = model(CONSTANT["performer"])
    wanted = choices(begun(eager(net)), 12)
    choices(begun(net), 8 if known else 1)
    own = _of_models[net]
    own.recordings = Forgetful(own.recordings)
    monkeypatch.setattr(step_cache, "RECORDINGS", 0)
    assert torch.equal(choices(begun(net), 12), wanted)
    assert bool(ran) == known


def test_what_is_set_by_hand_counts_from_the_next_text_on(ran: list[int]) -> None:
    net = model(CONSTANT["performer"])
    choices(begun(net), 8)
    for module in net.modules():
        if hasattr(module, "feature_epsilon"):
            module.feature_epsilon = 0.5
    before = len(ran)
    assert torch.equal(choices(begun(net), 8), choices(begun(eager(net)), 8))
    assert len(ran) > before  # a recording of its own


@pytest.mark.parametrize("what", ["hook", "training", "foreign part", "autocast", "mode"])
def test_what_a_recording_would_leave_out_is_done(what: str, ran: list[int]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net: Any = model(CONSTANT["performer"])
    decoding = begun(net)
    choices(decoding, 8)
    ran.clear()
    called: list[int] = []
    if what == "hook":
        net.norm.register_forward_pre_hook(lambda *_: called.append(1))
    elif what == "training":
        net.backbone.train()
    elif what == "foreign part":
        net.norm = Loud(16)
    if what == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            choices(decoding)
    elif what == "mode":
        with FlopCounterMode(display=False) as counter:
            choices(decoding)
        assert counter.get_total_flops() > 0
    else:
        choices(decoding)
    assert not ran
    assert bool(called) == (what == "hook")


def test_tokens_and_lengths_are_still_checked(ran: list[int]) -> None:
    net = model(CONSTANT["performer"], max_length=16)
    decoding = begun(net)
    choices(decoding, 10)
    with pytest.raises(ValueError, match="max_length is 16"):
        choices(decoding, 3)
    assert ran
    decoding = begun(net)
    choices(decoding, 3)
    decoding._unread = torch.full((2, 1), 11)
    with pytest.raises(ValueError, match="less than vocab_size=11"):
        decoding.choose()
    assert decoding.unread == 1


def extended(net: Any, tokens: Tensor, state: Any = None) -> tuple[list[Tensor], Any]:
    """Token by token: the logits of each, and the state after."""
    state, found = net.init_state(len(tokens)) if state is None else state, []
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            logits, state = net.extend(token, state)
            found.append(logits)
    return found, state


def by_calls(net: Any, tokens: Tensor) -> list[Tensor]:
    state, found = net.init_state(len(tokens)), []
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            logits, state = net.extend_by_call(token, state)
            found.append(logits)
    return found


@recorded
def test_extend_goes_by_recorded_steps(config: sq.BackboneConfig, ran: list[int]) -> None:
    net, tokens = model(config), torch.randint(0, 11, (2, 14))
    found, _ = extended(net, tokens)
    assert len(ran) >= 14 - 1 - recorded_steps.PATIENCE - 2
    assert all(torch.equal(one, other) for one, other in zip(found, by_calls(net, tokens), strict=True))


def test_streams_side_by_side_and_states_gone_back_to(ran: list[int]) -> None:
    net, tokens = model(RECORDED["performer"]), torch.randint(0, 11, (3, 12))
    states, found = [None] * 3, [[], [], []]
    for place in range(12):
        for row in range(3):
            (logits,), states[row] = extended(net, tokens[row : row + 1, place : place + 1], states[row])
            found[row].append(logits)
    assert len(ran) > 12
    for row in range(3):
        assert all(torch.equal(one, other) for one, other in zip(found[row], by_calls(net, tokens[row : row + 1]), strict=True))
    again, _ = extended(net, tokens[:1, :2], states[0])
    more, _ = extended(net, tokens[:1, :2], states[0])
    assert all(torch.equal(one, other) for one, other in zip(again, more, strict=True))


def test_extend_leaves_nothing_behind() -> None:
    net, before = model(RECORDED["performer"]), len(recorded_steps._reached_by)
    weak = weakref.ref(net)
    _, state = extended(net, torch.randint(0, 11, (1, 12)))
    assert len(recorded_steps._reached_by) == before + 1
    gc.disable()
    try:
        del net, state
        assert weak() is None and len(recorded_steps._reached_by) == before
    finally:
        gc.enable()


def test_what_is_set_by_hand_counts_from_the_next_stream_on(ran: list[int]) -> None:
    net, tokens = model(RECORDED["performer"]), torch.randint(0, 11, (1, 12))
    extended(net, tokens)
    for part in net.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 0.5
    found, _ = extended(net, tokens)
    assert all(torch.equal(one, other) for one, other in zip(found, by_calls(net, tokens), strict=True))


def test_an_encoder_decoder_is_recorded_too(ran: list[int]) -> None:
    torch.manual_seed(0)
    encoder, decoder = sq.TransformerConfig(**SMALL, causal=False), sq.PerformerConfig(**SMALL, cross_attention=True)
    net = sq.EncoderDecoder(encoder, decoder, vocab_size=11, max_length=20).eval()
    source, prompt = torch.randint(0, 11, (2, 7)), torch.tensor([[1], [1]])
    found = net.generate(source, prompt, max_new_tokens=12, temperature=0.0)
    assert ran
    assert torch.equal(found, eager(net).generate(source, prompt, max_new_tokens=12, temperature=0.0))
