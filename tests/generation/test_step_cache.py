"""Decoding by replay says what decoding without says, whatever happens to the model, the state and the batch in between."""

import copy
import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.laws.matrix import configs
from tests.replay.again import Again
from torch import Tensor, nn

import subquadratic as sq
from subquadratic.generation import Decoding, Sampling, step_cache
from subquadratic.heads import embedding
from subquadratic.heads.embedding import TokenEmbedding
from subquadratic.replay import cuda_graph
from subquadratic.replay.cuda_capture import CaptureError, NoWaiting
from subquadratic.replay.cuda_graph import Replayed
from subquadratic.replay.structure import flatten

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2}
CONSTANT = {
    "performer": sq.PerformerConfig(**SMALL, token_shift=True),
    "gated_linear": sq.GatedLinearConfig(**SMALL, token_shift=True),
    "performer-local": sq.PerformerConfig(**SMALL, local_heads=1, local_window=3),
    "linformer": sq.LinformerConfig(**SMALL, max_length=60, slots=4),
    "fastformer": sq.FastformerConfig(**SMALL),
    "feedback": sq.FeedbackTransformerConfig(**SMALL, memory_length=5),
    "window": sq.TransformerConfig(**SMALL, window=3),
}
GROWING = {
    "perceiver": sq.PerceiverARConfig(**SMALL, latents=6),
    "transformer": sq.TransformerConfig(**SMALL),
}
constant = pytest.mark.parametrize("config", CONSTANT.values(), ids=CONSTANT.keys())


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Again:
    made = Again(may_wait=True)  # a CPU is asked for values here and there: it need not be waited for
    monkeypatch.setattr(step_cache, "Replayed", lambda function, **options: Replayed(function, recorder=made, **options))
    return made


def model(config: sq.BackboneConfig, **options: Any) -> sq.LanguageModel:
    torch.manual_seed(0)
    made = sq.LanguageModel(config, vocab_size=11, **options).eval()
    with torch.no_grad():
        made.head.weight.mul_(50)  # an opinionated model
    return made


def begun(net: Any, rows: int = 2, *, mask: Tensor | None = None, **sampling: Any) -> Decoding:
    torch.manual_seed(1)
    decoding = Decoding(net, Sampling(**{"temperature": 0.0, **sampling}))
    decoding.read(torch.randint(0, 11, (rows, 6)), mask)
    return decoding


def choices(decoding: Decoding, count: int = 7) -> Tensor:
    return torch.stack([torch.stack([part.double() for part in decoding.choose()]) for _ in range(count)])


def eager(net: nn.Module) -> nn.Module:
    """The same model, as no graph takes it."""
    twin = copy.deepcopy(net)
    twin.register_forward_hook(lambda *_: None)
    return twin


@constant
@pytest.mark.parametrize("padded", [False, True])
def test_replays_equal_steps(config: sq.BackboneConfig, padded: bool, recorder: Again) -> None:
    mask = torch.tensor([[True] * 6, [False] * 4 + [True] * 2]) if padded else None
    net = model(config)
    found = choices(begun(net, mask=mask))
    assert (recorder.captured, recorder.replayed) == (1, 5)  # the first chosen token is not read before the second is wanted
    torch.testing.assert_close(found, choices(begun(eager(net), mask=mask)), rtol=1e-5, atol=1e-5)
    assert (recorder.captured, recorder.replayed) == (1, 5)


@constant
def test_the_next_text_begins_with_the_graphs_of_the_last(config: sq.BackboneConfig, recorder: Again) -> None:
    net = model(config)
    first, second = begun(net), begun(net)
    choices(first)
    replayed = recorder.replayed
    torch.testing.assert_close(choices(second), choices(begun(eager(net))))
    assert (recorder.captured, recorder.replayed) == (1, replayed + 6)


@pytest.mark.parametrize("config", GROWING.values(), ids=GROWING.keys())
def test_a_state_that_grows_is_never_captured(config: sq.BackboneConfig, recorder: Again) -> None:
    net = model(config)
    for _ in range(3):  # the same lengths again
        choices(begun(net))
    assert recorder.captured == 0
    assert not step_cache._of_models[net].replayed._noted


def assert_states_stay(decoding: Decoding, count: int) -> None:
    """Those taken after each of so many tokens."""
    kept = []
    for _ in range(count):
        decoding.choose()
        tensors = flatten(decoding.state)[0]
        kept.append((tensors, [tensor.clone() for tensor in tensors]))
    for tensors, copies in kept:
        assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@constant
def test_a_state_once_taken_stays_what_it_is(config: sq.BackboneConfig, recorder: Again) -> None:
    assert_states_stay(begun(model(config)), 6)
    assert recorder.replayed > 3


def test_several_texts_in_turns(recorder: Again) -> None:
    net = model(CONSTANT["performer"])
    together = [begun(net, rows) for rows in (2, 3, 2)]
    found = [torch.cat(rows) for rows in zip(*[[choices(decoding, 1) for decoding in together] for _ in range(7)], strict=True)]
    assert recorder.captured == 2
    for rows, mine in zip((2, 3, 2), found, strict=True):
        torch.testing.assert_close(mine, choices(begun(eager(net), rows)))


@constant
def test_reading_repeating_and_unchoosing_between_steps(config: sq.BackboneConfig, recorder: Again) -> None:
    def told(net: Any) -> list[Tensor]:
        decoding = begun(net, 1)
        parts = [choices(decoding, 4)]
        decoding.read(torch.tensor([[1, 2, 3]]))
        decoding.repeat(2)
        parts.append(choices(decoding, 4))
        decoding.unchoose()
        decoding.read(torch.tensor([[4], [5]]), torch.tensor([[True], [True]]))
        parts.append(choices(decoding, 3))
        return parts

    net = model(config)
    for mine, theirs in zip(told(net), told(eager(net)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert recorder.captured == 2


def test_sampling_draws_the_same(recorder: Again) -> None:
    net = model(CONSTANT["performer"])

    def drawn(net: Any) -> Tensor:
        return net.generate(torch.tensor([[1, 2]]), max_new_tokens=12, samples=3, generator=torch.Generator().manual_seed(3))

    assert torch.equal(drawn(net), drawn(eager(net)))
    assert recorder.replayed > 5


def scale(net: sq.LanguageModel) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)


def replace(net: sq.LanguageModel) -> None:
    net.load_state_dict({name: tensor * 1.1 for name, tensor in net.state_dict().items()}, assign=True)


def replace_one(net: sq.LanguageModel) -> None:
    net.head = nn.Linear(16, 11, bias=False).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.linspace(-9, 9, 11 * 16).view(11, 16).sin() * 9)


def redraw(net: sq.LanguageModel) -> None:
    for module in net.modules():
        if hasattr(module, "redraw_"):
            module.redraw_(torch.Generator().manual_seed(5))


def changed_midway(net: Any, change: Any, count: int) -> Tensor:
    """The choices before and after."""
    decoding = begun(net)
    before = choices(decoding, count)
    change(net)
    return torch.cat((before, choices(decoding, count)))


@pytest.mark.parametrize("change", [scale, replace, replace_one, redraw])
def test_weights_may_change_between_tokens(change: Any, recorder: Again) -> None:
    net = model(CONSTANT["performer"])
    twin = eager(net)
    torch.testing.assert_close(changed_midway(net, change, 4), changed_midway(twin, change, 4))
    assert recorder.captured == (1 if change in (scale, redraw) else 2)


def test_another_precision_is_another_graph(recorder: Again) -> None:
    net = model(CONSTANT["performer"])
    for _ in range(2):
        torch.testing.assert_close(choices(begun(net)), choices(begun(eager(net))))
        net.double()
    assert recorder.captured == 2


class Loud(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.0


@pytest.mark.parametrize("what", ["hook", "training", "foreign part", "own forward", "foreign model", "global hook"])
def test_what_a_graph_would_leave_out_is_done(what: str, recorder: Again) -> None:
    net: Any = model(CONSTANT["performer"])
    choices(begun(net))
    replayed = recorder.replayed
    called: list[int] = []
    hook = None
    if what == "hook":
        net.norm.register_forward_pre_hook(lambda *_: called.append(1))
    elif what == "training":
        net.backbone.train()
    elif what == "foreign part":
        net.norm = Loud(16)
    elif what == "own forward":
        net.norm.forward = lambda x: x
    elif what == "foreign model":
        net = type("Mine", (sq.LanguageModel,), {"__module__": "mine"})(CONSTANT["performer"], vocab_size=11).eval()
    else:
        hook = nn.modules.module.register_module_forward_hook(lambda *_: called.append(1))
    choices(begun(net))
    if hook is not None:
        hook.remove()
    assert recorder.replayed == replayed
    assert bool(called) == ("hook" in what)


def test_a_model_that_cannot_be_captured_goes_on_as_before(recorder: Again) -> None:
    recorder.may_wait = False  # and it asks a CPU whether tokens are in the vocabulary
    net = model(CONSTANT["performer"])
    with pytest.warns(UserWarning, match="no CUDA graph") as found:
        mine = torch.cat((choices(begun(net)), choices(begun(net))))
    assert len(found) == 1
    assert torch.equal(mine, torch.cat([choices(begun(eager(net)))] * 2))


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay does not ask how long the sequence is, as on a GPU."""
    asks = embedding.check_positions
    monkeypatch.setattr(embedding, "check_positions", lambda *given: None if cuda_graph._busy.recording else asks(*given))


@pytest.mark.usefixtures("careless")
def test_the_longest_text_is_found_out_without_the_graph(recorder: Again) -> None:
    net = model(CONSTANT["performer"], max_length=14)
    mask = torch.tensor([[True] * 6, [False] * 4 + [True] * 2])
    decoding = begun(net, mask=mask)
    choices(decoding, 9)  # of which 8 are read
    assert recorder.replayed == 7
    before = flatten(decoding.state)[0], decoding.unread
    for _ in range(2):
        with pytest.raises(ValueError, match="max_length is 14"):
            decoding.choose()
    assert all(a is b for a, b in zip(flatten(decoding.state)[0], before[0], strict=True))
    assert decoding.unread == before[1] == 1


def test_a_step_that_is_cut_short_leaves_everything(recorder: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    net = model(CONSTANT["performer"])
    decoding, expected = begun(net), choices(begun(eager(net)), 8)
    found = [choices(decoding, 4)]

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TokenEmbedding, "forward", stopped)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                decoding.choose()
    torch.testing.assert_close(torch.cat((*found, choices(decoding, 4))), expected)


@pytest.mark.usefixtures("careless")
def test_a_state_from_elsewhere_is_read_on(recorder: Again) -> None:
    net = model(CONSTANT["performer"], max_length=30)
    decoding = begun(net)
    choices(decoding, 5)
    other = begun(net, 2)
    other.read(torch.randint(0, 11, (2, 15)))
    decoding.state = other.state
    with pytest.raises(ValueError, match="max_length is 30"):
        choices(decoding, 12)


def test_models_and_their_graphs_go_together(recorder: Again) -> None:
    net = model(CONSTANT["performer"])
    choices(begun(net))
    gone = weakref.ref(net), weakref.ref(net.head)
    del net
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_an_encoder_decoder_reads_its_source_once(recorder: Again) -> None:
    torch.manual_seed(0)
    encoder, decoder = sq.TransformerConfig(**SMALL, causal=False), sq.PerformerConfig(**SMALL, cross_attention=True)
    net = sq.EncoderDecoder(encoder, decoder, vocab_size=11, max_length=20).eval()
    source, prompt = torch.randint(0, 11, (2, 7)), torch.tensor([[1], [1]])
    found = net.generate(source, prompt, max_new_tokens=8, temperature=0.0)
    assert recorder.replayed >= 5
    assert torch.equal(found, eager(net).generate(source, prompt, max_new_tokens=8, temperature=0.0))


@pytest.mark.parametrize("config", configs(causal=True))
def test_a_step_never_waits_for_the_device(config: sq.BackboneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without numbers; what a capture leaves out is left out. Segments of a feedback transformer are laid out by value."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # which does not know the device
    for name in ("heads.embedding.check_tokens", "heads.embedding.check_positions", "attention.low_rank.layer.check_positions"):
        monkeypatch.setattr(f"subquadratic.{name}", lambda *_: None)
    net = sq.LanguageModel(config, vocab_size=11, max_length=40).eval().to("meta")
    state, tokens = net.init_state(2, device="meta"), torch.zeros(2, 1, dtype=torch.int64, device="meta")
    refused = getattr(config, "segment_length", 1) > 1
    with torch.no_grad(), pytest.raises(CaptureError) if refused else nullcontext(), NoWaiting():
        for _ in range(3):
            _, state = net.extend(tokens, state, last_only=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnAGpu:
    @constant
    def test_replays_equal_steps(self, config: sq.BackboneConfig) -> None:
        net = model(config).cuda()

        def told(net: Any) -> Tensor:
            decoding = Decoding(net, Sampling(temperature=0.0))
            decoding.read(torch.arange(12, device="cuda").view(2, 6) % 11)
            found = [choices(decoding, 6)]
            decoding.read(torch.ones(2, 3, dtype=torch.int64, device="cuda"))
            return torch.cat((*found, choices(decoding, 6)))

        torch.testing.assert_close(told(net), told(eager(net)), rtol=1e-4, atol=1e-4)
        assert len(step_cache._of_models[net].replayed._graphs) == 1
        scale(net)
        torch.testing.assert_close(told(net), told(eager(net)), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("config", GROWING.values(), ids=GROWING.keys())
    def test_a_state_that_grows_is_never_captured(self, config: sq.BackboneConfig) -> None:
        net = model(config).cuda()
        for _ in range(2):
            net.generate(torch.ones(1, 3, dtype=torch.int64, device="cuda"), max_new_tokens=5)
        assert not step_cache._of_models[net].replayed._graphs

    def test_sampling_goes_on_after_a_capture(self) -> None:
        net = model(CONSTANT["performer"]).cuda()
        prompt = torch.ones(4, 3, dtype=torch.int64, device="cuda")
        first = net.generate(prompt, max_new_tokens=10)
        assert first.shape == (4, 13)
        assert not torch.equal(first[0], first[1]) or not torch.equal(first[1], first[2])
