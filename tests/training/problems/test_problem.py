import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from subquadratic import LanguageModel, PerceiverARConfig, TransformerConfig
from subquadratic.data import ByteTokenizer, Windows
from subquadratic.evaluation.score import evaluate_text
from subquadratic.evaluation.text import Text
from subquadratic.evaluation.windows import TextWindows, reach
from subquadratic.training.optimizer import make_optimizer
from subquadratic.training.problems.language import _stack, _summing
from subquadratic.training.problems.problem import Problem, Score, evenly, spread, validate

TOKENS = np.random.default_rng(0).integers(0, 256, 400).astype(np.uint16)


def model(causal: bool = True) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(TransformerConfig(dim=16, depth=1, heads=2, causal=causal, dropout=0.5), vocab_size=260, tie_embeddings=True)


def score(lm: LanguageModel, windows: Any, *, batch_size: int, seed: int, deadline: float = math.inf) -> Score:
    problem: Any = Problem.__new__(Problem)
    object.__setattr__(problem, "collate", _stack)
    object.__setattr__(problem, "sums", _summing(ByteTokenizer()))
    return validate(problem, lm, windows, batch_size=batch_size, seed=seed, deadline=deadline)


def test_causal_validation_is_the_mean_over_every_byte_once() -> None:
    lm, windows = model(), Windows(TOKENS, length=40, stride=39)
    found = score(lm, windows, batch_size=3, seed=0)
    lm.eval()
    nats, right, targets = 0.0, 0, []
    for i in range(len(windows)):
        logits = lm(windows[i][None])[0, :-1].double()
        nats += nn.functional.cross_entropy(logits, windows[i][1:], reduction="sum").item()
        right += int((logits.argmax(-1) == windows[i][1:]).sum())
        targets += windows[i][1:].tolist()
    assert targets == TOKENS[1 : len(targets) + 1].tolist()
    assert found.predicted == len(targets)
    assert found.loss == pytest.approx(nats / len(targets), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2), rel=1e-9)
    assert found.accuracy == right / len(targets)


def test_an_end_of_document_costs_bits_and_is_no_byte() -> None:
    lm, windows = model(), Windows(np.array([65, 66, 258, 67], dtype=np.uint16), length=4)
    found = score(lm, windows, batch_size=1, seed=0)
    assert found.predicted == 3
    assert found.bits_per_byte == pytest.approx(found.loss * 3 / 2 / math.log(2))


def test_perceiver_ar_predicts_its_latents() -> None:
    lm = LanguageModel(PerceiverARConfig(dim=16, depth=1, heads=2, latents=8), vocab_size=260)
    windows = Windows(TOKENS, length=40, stride=8)
    assert score(lm, windows, batch_size=4, seed=0).predicted == 8 * len(windows)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [40, 41, 79, 80, 400])
def test_validation_is_what_evaluation_in_windows_scores(length: int, causal: bool) -> None:
    lm, text = model(causal), Text([TOKENS[:length]], [0])
    for latents in (None, 8) if causal else (None,):
        if latents is not None:
            lm = LanguageModel(PerceiverARConfig(dim=16, depth=1, heads=2, latents=latents), vocab_size=260)
        windows = TextWindows(text.after(258), length=40, advance=reach(lm, 40), masked=not causal, seed=3)
        found = score(lm, windows, batch_size=3, seed=3)
        wanted = evaluate_text(lm, text, context=40, start_token=258, seed=3, sizes=ByteTokenizer().byte_lengths())
        assert found.predicted == wanted.predicted == length
        assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
        assert found.bits_per_byte == pytest.approx(wanted.bits_per_byte, rel=1e-6)


def test_masked_validation_depends_on_the_seed_and_not_on_the_batch() -> None:
    lm, windows = model(causal=False), Windows(TOKENS, length=40)
    first, same, other = (score(lm, windows, batch_size=b, seed=s) for b, s in ((1, 5), (7, 5), (7, 6)))
    assert first.loss == pytest.approx(same.loss, rel=1e-6)
    assert (first.accuracy, first.predicted) == (same.accuracy, same.predicted)
    assert other.loss != first.loss


def test_validation_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    lm = model()
    lm.backbone.eval()
    before, modes = torch.random.get_rng_state(), [module.training for module in lm.modules()]
    score(lm, Windows(TOKENS, length=40), batch_size=4, seed=0)
    assert [module.training for module in lm.modules()] == modes
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_sample_is_spread_evenly() -> None:
    windows = Windows(TOKENS, length=10)
    sample = evenly(windows, 4)
    assert [int(window[0]) for window in sample] == [int(TOKENS[i]) for i in (0, 100, 200, 300)]
    assert evenly(windows, 40) is windows


def test_validation_ends_when_its_time_is_up_and_has_seen_all_parts() -> None:
    windows = spread(Windows(TOKENS, length=10))
    assert sorted(int(window[0]) for window in windows) == sorted(int(TOKENS[i]) for i in range(0, 400, 10))
    assert [windows.indices.index(i) for i in (0, 16, 32, 8, 24)] == [0, 1, 2, 3, 4]
    many = Windows(np.tile(TOKENS, 4), length=10)
    found = score(model(), spread(many), batch_size=3, seed=0, deadline=0.0)
    assert (found.items, found.predicted) == (66, 66 * 9)
    assert score(model(), many, batch_size=3, seed=0).items == 160


def test_only_matrices_decay() -> None:
    lm = model()
    optimizer = make_optimizer(lm, learning_rate=0.1, weight_decay=0.3)
    names = {id(parameter): name for name, parameter in lm.named_parameters()}
    decay, rest = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert decay | rest == set(names.values())
    assert not decay & rest
    assert "embedding.table.weight" in rest
    assert all("norm" in name or "bias" in name or "table" in name for name in rest)
