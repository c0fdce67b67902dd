"""Cuts predict the same tokens, each as if nothing stood before its context."""

import math
import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.comparison.measuring.models import CAUSAL, CONFIGS, VOCABULARY, Lookup, build, latents_of

from subquadratic.comparison.measuring import contexts
from subquadratic.comparison.measuring.contexts import FINENESS, Runs, loss_by_context
from subquadratic.evaluation.tally import Tally
from subquadratic.evaluation.text import Text

LENGTH = 80
TOKENS = np.random.default_rng(5).permutation(VOCABULARY)[:190]  # no token twice: a target's place is known by the token
PLACE = {int(token): place for place, token in enumerate(TOKENS)}
TEXT = Text([TOKENS[:101], TOKENS[101:]], [0, 60])
MODELS = {name: build(name) for name in CONFIGS}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[int, float]]:
    """Nats by place in the text, of each tally."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    add = Tally.add

    def listening(self: Tally, nats: Any, right: Any, targets: torch.Tensor, before: Any) -> None:
        for value, target in zip(nats.tolist(), targets.tolist(), strict=True):
            assert PLACE[target] not in found[id(self)], "each target once"
            found[id(self)][PLACE[target]] = value
        add(self, nats, right, targets, before)

    monkeypatch.setattr(Tally, "add", listening)
    return found


def alone(name: str, target: int, context: int) -> float:
    """Nats of one token, by the rule: its run is cut into pieces from the left, and sees the context of its piece's last token."""
    run, most = LENGTH // FINENESS, latents_of(name)
    piece = max(1, min((context + 1) // FINENESS, most or run))
    start = target - (target - (LENGTH - 1)) % run
    first = start + (target - start) // piece * piece
    last = min(first + piece, start + run) - 1
    tokens = torch.from_numpy(TOKENS[last - context : target])[None]
    latents = {} if most is None else {"latents": min(most, context) - (last - target)}
    with torch.no_grad():
        logits = MODELS[name](tokens, **latents)[0, -1]
    return float(-logits.log_softmax(-1)[TOKENS[target]])


@pytest.mark.parametrize("name", CAUSAL)
def test_each_target_is_predicted_as_if_it_were_alone(name: str, told: dict[int, dict[int, float]]) -> None:
    cuts = loss_by_context(MODELS[name], TEXT, length=LENGTH, targets=50, batch_size=2)
    assert [cut.context for cut in cuts] == [80, 40, 20]
    for context, nats, cut in zip([79, 40, 20], told.values(), cuts, strict=True):
        assert cut.predicted == len(nats) == 50
        assert nats == pytest.approx({target: alone(name, target, context) for target in nats}, rel=1e-4)
        assert cut.value == pytest.approx(np.mean(list(nats.values())) / math.log(2), rel=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_targets_in_every_cut_whatever_the_batch(name: str, told: dict[int, dict[int, float]]) -> None:
    cuts = loss_by_context(MODELS[name], TEXT, length=LENGTH)
    places = [sorted(nats) for nats in told.values()]
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == (len(TOKENS) - 79) // 10 * 10  # all runs whose windows the text has room for
    told.clear()
    again = loss_by_context(MODELS[name], TEXT, length=LENGTH, batch_size=1)
    assert [cut.value for cut in again] == pytest.approx([cut.value for cut in cuts], rel=1e-4)


@pytest.mark.parametrize("name", ["masked fastformer", "masked linformer"])
def test_masked_models_see_both_sides_and_the_same_hidden_neighbours(name: str, told: dict[int, dict[int, float]]) -> None:
    loss_by_context(MODELS[name], TEXT, length=LENGTH, targets=20, seed=4)
    runs = Runs(text=TEXT, length=LENGTH, causal=False, seed=4)
    hidden: dict[int, dict[int, bool]] = defaultdict(dict)
    for nats, context in zip(told.values(), [79, 40, 20], strict=True):
        for run in range(runs.count):
            for row in runs.rows(run, context=context, piece=max(1, (context + 1) // FINENESS)):
                targets = row["tokens"][row["scored"]].tolist()
                places = [PLACE[token] for token in row["tokens"].tolist()]
                assert places == list(range(places[0], places[0] + context + 1))
                for target in targets:
                    assert bool(row["masked"][row["scored"]].all()), "a model does not see what it has to tell"
                    before, after = PLACE[target] - places[0], places[-1] - PLACE[target]
                    assert abs(before - after) <= context / FINENESS + 2
                    for place, masked in zip(places, row["masked"].tolist(), strict=True):
                        assert hidden[PLACE[target]].setdefault(place, masked) == masked
                    if PLACE[target] in nats:
                        logits = MODELS[name](row["tokens"][None], masked=row["masked"][None])[0, before].detach()
                        assert nats[PLACE[target]] == pytest.approx(float(-logits.log_softmax(-1)[target]), rel=1e-4)


def test_a_module_that_sees_the_last_token_only_has_equal_cuts() -> None:
    text = Text([np.repeat(np.arange(1, 200), 2)])
    cuts = loss_by_context(Lookup(1), text, length=128)
    assert [cut.context for cut in cuts] == [128, 64, 32, 16]
    assert len({(cut.value, cut.predicted) for cut in cuts}) == 1 and cuts[0].value == pytest.approx(2.75 / math.log(2), rel=0.02)


def test_cuts_tell_how_far_back_a_module_looks() -> None:
    text = Text([np.tile(np.arange(1, 51), 12)])
    values = {cut.context: cut.value for cut in loss_by_context(Lookup(50), text, length=256)}
    assert values == pytest.approx(
        {256: 0.5 / math.log(2), 128: 0.5 / math.log(2), 64: 0.5 / math.log(2), 32: 5 / math.log(2), 16: 5 / math.log(2)}
    )


@settings(deadline=None, max_examples=30)
@given(length=st.integers(2, 200), more=st.integers(0, 400), causal=st.booleans(), data=st.data())
def test_every_row_lies_in_its_window(length: int, more: int, causal: bool, data: st.DataObject) -> None:
    runs = Runs(text=Text([np.arange(length + more)]), length=length, causal=causal, seed=0)
    assume(runs.count)
    run = data.draw(st.sampled_from([0, runs.count - 1]))
    for context in contexts.contexts(length):
        scored = []
        for row in runs.rows(run, context=context, piece=data.draw(st.integers(1, max(1, (context + 1) // FINENESS)))):
            assert len(row["tokens"]) == context + 1 and len(row["scored"]) == context + 1
            assert int(row["tokens"][0]) >= run * runs.size and int(row["tokens"][-1]) < run * runs.size + runs.width
            scored += row["tokens"][row["scored"]].tolist()
        assert len(scored) == len(set(scored)) == runs.size


def test_counts_deadlines_bytes_and_short_texts() -> None:
    model = MODELS["fastformer"]
    few = loss_by_context(model, TEXT, length=LENGTH, targets=18)
    assert {cut.predicted for cut in few} == {20}  # whole runs
    late = loss_by_context(model, TEXT, length=LENGTH, batch_size=2, deadline=time.monotonic() - 1)
    assert [cut.value for cut in late] == pytest.approx([cut.value for cut in few])
    per_byte = loss_by_context(model, TEXT, length=LENGTH, targets=18, sizes=np.full(VOCABULARY, 2))
    assert [cut.value for cut in per_byte] == pytest.approx([cut.value / 2 for cut in few])
    assert [cut.predicted for cut in loss_by_context(model, TEXT.cut(89), length=LENGTH)] == [10] * 3
    assert loss_by_context(model, TEXT.cut(88), length=LENGTH) == []
    assert loss_by_context(model, TEXT, length=LENGTH, sizes=np.zeros(VOCABULARY, dtype=np.int64)) == []
