"""Losses by position are those of each token by itself, after as many tokens as it says."""

import math
import time

import numpy as np
import pytest
import torch
from tests.comparison.measuring.models import CAUSAL, CONFIGS, VOCABULARY, Lookup, build, latents_of

from subquadratic.comparison.measuring.positions import loss_by_position
from subquadratic.evaluation.text import Text

LENGTH, WINDOWS = 41, 4
TOKENS = np.random.default_rng(3).integers(0, VOCABULARY, 1 + WINDOWS * (LENGTH - 1))
TEXT = Text([TOKENS[:50], TOKENS[50:]], [0])


def alone(name: str, window: int, place: int) -> float:
    """Nats of one token, after the others of its window alone."""
    model, start = MODELS[name], window * (LENGTH - 1)
    tokens = torch.from_numpy(TOKENS[start : start + place])[None]
    latents = {}
    if (most := latents_of(name)) is not None:  # the last token of the shorter window that it is predicted in is so many places later
        later = (LENGTH - 1 - place) % most
        latents = {"latents": min(most, place + later) - later}
    with torch.no_grad():
        logits = model(tokens, **latents)[0, -1]
    return float(-logits.log_softmax(-1)[TOKENS[start + place]])


MODELS = {name: build(name) for name in CONFIGS}


@pytest.mark.parametrize("name", CAUSAL)
def test_spans_are_the_mean_of_each_token_by_itself(name: str) -> None:
    spans = loss_by_position(MODELS[name], TEXT, length=LENGTH)
    assert [(span.start, span.stop) for span in spans] == [(0, 16), (16, 32), (32, 41)]
    for span in spans:
        wanted = [alone(name, window, place) for window in range(WINDOWS) for place in range(max(span.start, 1), span.stop)]
        assert span.predicted == len(wanted), "every position equally often"
        assert span.value == pytest.approx(np.mean(wanted) / math.log(2), rel=1e-4)


@pytest.mark.parametrize("name", ["masked fastformer", "masked linformer"])
def test_masked_models_predict_each_token_at_every_position(name: str) -> None:
    text = TEXT.cut(3 * LENGTH)
    spans = loss_by_position(MODELS[name], text, length=LENGTH)
    assert [span.predicted for span in spans] == [3 * 16 - 1, 3 * 16, 3 * 9]  # the very first token is never predicted
    others = loss_by_position(MODELS[name], text, length=LENGTH, batch_size=3)
    assert [span.value for span in others] == pytest.approx([span.value for span in spans], rel=1e-5)


def test_bytes_and_what_is_left_out() -> None:
    sizes = np.full(VOCABULARY, 3)
    plain = loss_by_position(MODELS["transformer"], TEXT, length=LENGTH)
    for span, per_byte in zip(plain, loss_by_position(MODELS["transformer"], TEXT, length=LENGTH, sizes=sizes), strict=True):
        assert per_byte.value == pytest.approx(span.value / 3)
    assert loss_by_position(MODELS["transformer"], TEXT, length=LENGTH, sizes=0 * sizes) == []


def test_a_module_that_knows_the_far_past_is_better_late_in_a_window() -> None:
    text = Text([np.tile(np.arange(20) + 1, 20)])
    early, late, last = loss_by_position(Lookup(20, wrong=9.0), text, length=LENGTH)
    assert early.value == pytest.approx(9.0 / math.log(2))
    assert early.value > late.value > last.value == pytest.approx(0.5 / math.log(2))


def test_fewer_windows_and_deadlines() -> None:
    model = MODELS["fastformer"]
    two = loss_by_position(model, TEXT, length=LENGTH, windows=2)
    assert sum(span.predicted for span in two) == 2 * (LENGTH - 1)
    late = loss_by_position(model, TEXT, length=LENGTH, batch_size=2, deadline=time.monotonic() - 1)
    assert [span.value for span in late] == pytest.approx([span.value for span in two], rel=1e-5)
    short = loss_by_position(model, TEXT.cut(10), length=LENGTH)
    assert [(span.start, span.stop, span.predicted) for span in short] == [(0, 10, 9)]
    assert not model.training
