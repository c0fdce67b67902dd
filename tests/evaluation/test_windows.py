"""Every token but the first exactly once: any model, any text, any windows; and each from what its window says it sees."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import subquadratic as sq
from subquadratic.compat.feedback_transformer_pytorch import FeedbackTransformer
from subquadratic.compat.perceiver_ar_pytorch import PerceiverAR
from subquadratic.compat.performer_pytorch import PerformerLM
from subquadratic.evaluation import score
from subquadratic.evaluation.score import evaluate_items, evaluate_text
from subquadratic.evaluation.tally import Tally
from subquadratic.evaluation.text import Text
from subquadratic.evaluation.windows import TextWindows, reach, scored_losses

SIZES: dict[str, Any] = {"dim": 8, "depth": 1, "heads": 1}
MOST = 60  # tokens of a text; each is another one, so that those that were scored are known again
START = MOST
CONFIGS: dict[str, sq.BackboneConfig] = {
    "performer": sq.PerformerConfig(**SIZES, features=4, local_heads=1, local_window=4),
    "linformer": sq.LinformerConfig(**SIZES, max_length=12, slots=4),
    "fastformer": sq.FastformerConfig(**SIZES),
    "feedback": sq.FeedbackTransformerConfig(**SIZES, segment_length=4, memory_length=8),
    "perceiver": sq.PerceiverARConfig(**SIZES, latents=5),
    "perceiver of one latent": sq.PerceiverARConfig(**SIZES, latents=1),
    "perceiver with long latents": sq.PerceiverARConfig(**SIZES, latents=40),
    "transformer": sq.TransformerConfig(**SIZES),
    "masked fastformer": sq.FastformerConfig(**SIZES, causal=False),
    "masked linformer": sq.LinformerConfig(**SIZES, max_length=12, slots=4, causal=False),
}
PUBLISHED = {
    "published performer": lambda: PerformerLM(num_tokens=MOST + 1, max_seq_len=12, dim=8, depth=1, heads=1, dim_head=8, causal=True),
    "published feedback": lambda: FeedbackTransformer(num_tokens=MOST + 1, dim=8, depth=1, mem_len=8, seq_len=4, heads=1, dim_head=8),
    "published perceiver": lambda: PerceiverAR(
        num_tokens=MOST + 1, dim=8, depth=1, max_seq_len=12, cross_attn_seq_len=5, heads=1, dim_head=8
    ),
}
LIMITED = ("linformer", "masked linformer", "published performer", "published perceiver")


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (sq.LanguageModel(CONFIGS[name], vocab_size=MOST + 1) if name in CONFIGS else PUBLISHED[name]()).eval()


MODELS = {name: build(name) for name in (*CONFIGS, *PUBLISHED)}


def scored_tokens(patch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the tokens that are scored from now on."""
    found: list[int] = []
    add = Tally.add

    def listening(self: Tally, nats: Any, right: Any, targets: torch.Tensor, before: Any) -> None:
        found.extend(targets.tolist())
        assert len(nats) == len(right) == len(targets) == len(before)
        add(self, nats, right, targets, before)

    patch.setattr(Tally, "add", listening)
    return found


LENGTHS = st.one_of(st.integers(2, 40), st.sampled_from([2, 3, 8, 9, 10, 11, 12, 13, 17, 23, 24, 25]))


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_token_but_the_first_is_scored_once(name: str, data: st.DataObject) -> None:
    """Texts of every length around that of a window, of several parts and documents, with and without something before them."""
    length = data.draw(LENGTHS, "length")
    context = data.draw(st.none() | st.integers(2, 12 if name in LIMITED else 45), "context")
    starts = data.draw(st.lists(st.integers(0, length), max_size=4), "starts")
    start_token = data.draw(st.sampled_from([None, START]), "start token")
    cut = data.draw(st.integers(0, length), "cut")
    tokens = np.random.default_rng(length).permutation(MOST)[: length + 5]
    text = Text([tokens[:cut], tokens[cut:]], starts).cut(length)
    batch_size, seed = data.draw(st.integers(1, 5), "batch size"), data.draw(st.integers(0, 3), "seed")
    piece = data.draw(st.integers(1, 20), "piece")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "PIECES", (piece, piece))
        found = scored_tokens(patch)
        total = evaluate_text(
            MODELS[name], text, context=context, usual_context=9, start_token=start_token, batch_size=batch_size, seed=seed
        )
    beginning = start_token is not None and 0 in starts
    assert sorted(found) == sorted(tokens[0 if beginning else 1 : length].tolist())
    assert total.predicted == len(found) == sum(bucket.predicted for bucket in total.by_position)


@pytest.mark.parametrize("name", ["perceiver", "transformer", "masked fastformer", "masked linformer"])
@given(length=st.integers(2, 60), size=st.integers(2, 12), seed=st.integers(0, 9))
def test_windows_are_the_text_and_score_it_once(name: str, length: int, size: int, seed: int) -> None:
    model, size = MODELS[name], min(size, length)
    masked = name.startswith("masked")
    windows = TextWindows(Text([np.arange(length)]), length=size, advance=reach(model, size), masked=masked, seed=seed)
    scored, hidden = [], []
    for item in (windows[i] for i in range(len(windows))):
        assert item["tokens"].tolist() == list(range(int(item["tokens"][0]), int(item["tokens"][0]) + size))
        scored += item["tokens"][item["scored"]].tolist()
        if masked:
            hidden.append(int(item["masked"].sum()))
            assert not (item["scored"] & ~item["masked"]).any()
    assert sorted(scored) == list(range(1, length))
    assert not masked or max(hidden) - min(hidden) <= 1, "every pass hides as many"
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_what_is_scored_does_not_depend_on_the_batch() -> None:
    for name, model in MODELS.items():
        text = Text([np.arange(50)], [0])
        alone, together = (evaluate_text(model, text, context=11, batch_size=size, seed=4) for size in (1, 7))
        assert alone.loss == pytest.approx(together.loss, rel=1e-5), name
        assert [bucket.predicted for bucket in alone.by_position] == [bucket.predicted for bucket in together.by_position]


def test_a_perceiver_scores_all_that_can_be_known_and_each_from_what_is_before_it() -> None:
    model, generator = MODELS["perceiver"], torch.Generator().manual_seed(1)
    tokens = torch.randint(0, MOST, (4, 18), generator=generator)
    scored = torch.rand(4, 18, generator=generator) < 0.4
    scored[2] = False
    nats, _, targets, places = scored_losses(model, tokens, scored)
    assert len(nats) == int(scored[:, 1:].sum())
    wanted = {}
    for row, place in scored.nonzero().tolist():
        if place:
            stop = min(stop for stop in (18, 13, 8, 3) if stop > place)  # the beginnings that end a whole number of latents before
            logits = model(tokens[row : row + 1, : stop - 1])[0].log_softmax(dim=-1)
            wanted[row, place] = -float(logits[place - stop, tokens[row, place]].detach())
    assert sorted(nats.tolist()) == pytest.approx(sorted(wanted.values()), rel=1e-5)
    assert sorted(zip(places.tolist(), targets.tolist(), strict=True)) == sorted((place, int(tokens[row, place])) for row, place in wanted)
    found = evaluate_items(model, [{"tokens": tokens, "scored": scored}])
    assert found.predicted == len(wanted) == evaluate_items(MODELS["transformer"], [{"tokens": tokens, "scored": scored}]).predicted


def test_evaluation_leaves_each_part_in_its_own_mode() -> None:
    for name, model in MODELS.items():
        model.train()
        part = next(child for child in model.children() if next(child.children(), None) is not None)
        part.eval()
        before = [module.training for module in model.modules()]
        evaluate_text(model, Text([np.arange(20)]), context=8)
        assert [module.training for module in model.modules()] == before, name
        assert True in before
        assert False in before
        model.eval()
