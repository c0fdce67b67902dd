"""Generating leaves a model as it was, part by part, and ends where it is told to, however that is said."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import subquadratic as sq
from subquadratic.compat import perceiver_ar_pytorch, performer_pytorch
from subquadratic.compat.continuation import Continuation
from subquadratic.generation import fill, fill_steps, stream
from subquadratic.generation.stopping import end_tokens

V = 20
SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2, "dropout": 0.5}
PROMPT = torch.tensor([[1, 2, 3]])


def language_model() -> sq.LanguageModel:
    torch.manual_seed(0)
    return sq.LanguageModel(sq.PerformerConfig(**SMALL, features=8), vocab_size=V)


def pairs() -> sq.EncoderDecoder:
    torch.manual_seed(0)
    encoder = sq.PerformerConfig(**SMALL, features=8, causal=False)
    return sq.EncoderDecoder(encoder, sq.PerformerConfig(**SMALL, features=8, cross_attention=True), vocab_size=V)


def performer_lm() -> Any:
    torch.manual_seed(0)
    return performer_pytorch.PerformerLM(num_tokens=V, max_seq_len=64, dim=16, depth=1, heads=2, causal=True, attn_dropout=0.5)


def perceiver() -> Any:
    torch.manual_seed(0)
    return perceiver_ar_pytorch.PerceiverAR(num_tokens=V, dim=16, depth=1, dim_head=32, heads=1, max_seq_len=64, cross_attn_seq_len=32)


def masked_model() -> sq.LanguageModel:
    return sq.LanguageModel(sq.PerformerConfig(**SMALL, features=8, causal=False), vocab_size=V)


# A model, and what is done with it.
VERBS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "generate": (language_model, lambda model: model.generate(PROMPT, max_new_tokens=3)),
    "stream": (language_model, lambda model: list(model.stream(PROMPT, max_new_tokens=3))),
    "pairs": (pairs, lambda model: model.generate(PROMPT, PROMPT, max_new_tokens=3)),
    "fill": (masked_model, lambda model: fill(model, PROMPT, PROMPT == 2)),
    "performer wrapper": (
        lambda: performer_pytorch.AutoregressiveWrapper(performer_lm()),
        lambda model: model.generate(PROMPT, 3),
    ),
    "perceiver wrapper": (
        lambda: perceiver_ar_pytorch.autoregressive_wrapper.AutoregressiveWrapper(perceiver()),
        lambda model: model.generate(PROMPT, 3),
    ),
    "converted": (lambda: Continuation(performer_lm()), lambda model: list(model.stream(PROMPT, max_new_tokens=3))),
    "broken off": (language_model, lambda model: next(model.stream(PROMPT, max_new_tokens=3))),
    "error": (language_model, lambda model: model.generate(torch.tensor([[V]]), max_new_tokens=3)),
}


def modes(model: torch.nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
@pytest.mark.parametrize("verb", VERBS)
def test_every_part_is_left_in_its_own_mode(verb: str, frozen: int) -> None:
    make, run = VERBS[verb]
    model = make().train()
    for number, module in enumerate(model.modules()):
        module.training = number % 4 != frozen
    before = modes(model)
    with contextlib.suppress(ValueError):
        run(model)
    assert modes(model) == before


@settings(max_examples=20, deadline=None)
@given(turns=st.lists(st.sampled_from("abcxyz"), max_size=30))
def test_streams_that_alternate_and_end_in_any_order(turns: list[str]) -> None:
    """a, b and c ask a stream for a token; x, y and z drop it. The last one out puts the model back."""
    model = language_model().train()
    wanted = model.generate(PROMPT, max_new_tokens=9, temperature=0)[0, 3:].tolist()
    streams: dict[str, Iterator[Any] | None] = {
        name: model.stream(PROMPT, max_new_tokens=count, temperature=0) for name, count in (("a", 2), ("b", 5), ("c", 9))
    }
    found: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    running: set[str] = set()
    for turn in turns:
        name = turn if turn in found else "abc"["xyz".index(turn)]
        if turn in "xyz":
            streams[name] = None
            running.discard(name)
        elif streams[name] is not None:
            token = next(streams[name], None)  # type: ignore[arg-type]
            found[name] += [] if token is None else [int(token)]
            (running.discard if token is None else running.add)(name)
        assert set(modes(model).values()) == {not running}
    for tokens in found.values():
        assert tokens == wanted[: len(tokens)]


def test_a_dropped_filling_puts_the_model_back() -> None:
    model = masked_model().train()
    steps = fill_steps(model, PROMPT, PROMPT < 3)
    next(steps)
    assert not model.training
    del steps
    gc.collect()
    assert all(modes(model).values())


def test_an_error_between_two_tokens_changes_nothing() -> None:
    model = language_model().train()

    def consume() -> None:
        for _ in model.stream(PROMPT, max_new_tokens=3):
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert all(modes(model).values())


ENDS: list[Callable[[int], Any]] = [
    lambda end: end,
    lambda end: [end],
    lambda end: [(end + 1) % V, end],
    lambda end: (end,),
    lambda end: {end},
    lambda end: frozenset([end]),
    lambda end: range(end, end + 1),
    lambda end: torch.tensor(end),
    lambda end: torch.tensor([end]),
    lambda end: np.int64(end),
    lambda end: np.array([end]),
    lambda end: [np.int32(end), torch.tensor(end)],
]


@pytest.mark.parametrize("kind", range(len(ENDS)))
@pytest.mark.parametrize("verb", ["generate", "pairs", "performer wrapper", "perceiver wrapper", "converted"])
def test_end_tokens_of_any_form(verb: str, kind: int) -> None:
    model: Any = VERBS[verb][0]().eval()

    def new(eos: Any) -> list[int]:
        if verb == "generate":
            return model.generate(PROMPT, max_new_tokens=12, temperature=0, eos_token=eos)[0, 3:].tolist()
        if verb == "pairs":
            return model.generate(PROMPT, PROMPT, max_new_tokens=12, temperature=0, eos_token=eos)[0, 3:].tolist()
        if verb == "converted":
            return [int(token) for token in model.stream(PROMPT, max_new_tokens=12, temperature=0, eos_token=eos)]
        return model.generate(PROMPT, 12, temperature=0, eos_token=eos)[0].tolist()

    free = new(None)
    end = free[-1]
    other = (end + 1) % V
    stops = [free.index(token) for token in (end, *([other] if kind == 2 else [])) if token in free]
    assert new(ENDS[kind](end)) == free[: min(stops) + 1]


WRONG = [V, -1, [], set(), (), [3, V], torch.tensor([3, -2]), True, 1.0, "3", b"3", [3.5], np.float32(3), {3: 4}, torch.tensor(True)]


@pytest.mark.parametrize("eos", WRONG, ids=repr)
@pytest.mark.parametrize("verb", ["generate", "pairs", "performer wrapper", "perceiver wrapper", "converted"])
def test_what_can_never_match_is_refused(verb: str, eos: Any) -> None:
    model: Any = VERBS[verb][0]().eval()
    with pytest.raises(ValueError, match="eos_token must"):
        if verb == "pairs":
            model.generate(PROMPT, PROMPT, max_new_tokens=2, eos_token=eos)
        elif "wrapper" in verb:
            model.generate(PROMPT, 2, eos_token=eos)
        elif verb == "converted":
            model.stream(PROMPT, max_new_tokens=2, eos_token=eos)
        else:
            model.generate(PROMPT, max_new_tokens=2, eos_token=eos)


def test_a_model_that_does_not_say_its_vocabulary_is_asked_for_logits() -> None:
    model = language_model().eval()
    del model.vocab_size
    with pytest.raises(ValueError, match="less than vocab_size=20, got 21"):
        list(stream(model, PROMPT, max_new_tokens=3, eos_token=[3, 21]))


def test_finished_rows_get_the_first_end_token_unless_told() -> None:
    assert end_tokens([7, 3]) == (7, 3) and end_tokens({7, 3}) == (3, 7) and end_tokens(None) == ()
    model = language_model().eval()
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    free = model.generate(prompt, max_new_tokens=12, temperature=0)[:, 3:]
    end = int(free[0, 0])
    second = next(token for token in range(V) if token not in free.flatten().tolist())
    for pad, wanted in ((None, end), (np.int64(2), 2)):
        padded = model.generate(prompt, max_new_tokens=12, temperature=0, eos_token=[end, second], pad_token=pad)[0, 3:].tolist()
        assert padded[0] == end and set(padded[1:]) <= {wanted}
    with pytest.raises(ValueError, match="pad_token must be an integer"):
        model.generate(prompt, eos_token=end, pad_token=1.5)
