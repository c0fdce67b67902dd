"""Scores against their definitions: token by token, window by window."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import subquadratic as sq
from subquadratic.evaluation import score
from subquadratic.evaluation.score import evaluate_text
from subquadratic.evaluation.text import Text
from subquadratic.evaluation.windows import TextWindows

SIZES: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
STREAMING = {
    "performer": sq.PerformerConfig(**SIZES, local_heads=1, local_window=8, token_shift=True),
    "fastformer": sq.FastformerConfig(**SIZES),
    "feedback": sq.FeedbackTransformerConfig(**SIZES, segment_length=4, memory_length=16),
    "windowed": sq.TransformerConfig(**SIZES, window=8),
}
WINDOWED = {
    "transformer": sq.TransformerConfig(**SIZES),
    "linformer": sq.LinformerConfig(**SIZES, max_length=40, slots=8),
    "perceiver": sq.PerceiverARConfig(**SIZES, latents=16),
    "masked": sq.FastformerConfig(**SIZES, causal=False),
}
VOCABULARY, END = 40, 39
TOKENS = np.random.default_rng(0).integers(0, END, size=500).astype(np.uint16)


def build(config: sq.BackboneConfig) -> sq.LanguageModel:
    return sq.LanguageModel(config, vocab_size=VOCABULARY).eval()


@torch.no_grad()
def by_hand(model: sq.LanguageModel, tokens: list[int]) -> list[float]:
    """Nats of every token but the first, from all before it; of a Perceiver AR, of its last ones."""
    logits = model(torch.tensor([tokens[:-1]]))[0]
    return F.cross_entropy(logits, torch.tensor(tokens[-len(logits) :]), reduction="none").tolist()


@pytest.mark.parametrize("name", STREAMING)
def test_a_stream_scores_what_one_look_at_the_document_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "PIECES", (16, 32))  # so that some documents are long and some short
    model = build(STREAMING[name])
    text = Text([TOKENS[:200], TOKENS[200:]], [0, 20, 45, 300, 330])
    bounds = [0, 20, 45, 300, 330, 500]
    rows = [[END, *TOKENS[a:b].tolist()] for a, b in itertools.pairwise(bounds)]
    wanted = [nats for row in rows for nats in by_hand(model, row)]
    found = evaluate_text(model, text, start_token=END, sizes=np.full(VOCABULARY, 2), batch_size=3)
    assert found.predicted == len(wanted) == 500
    assert found.loss == pytest.approx(np.mean(wanted), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(found.bits_per_token / 2) == pytest.approx(found.loss / math.log(2) / 2)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.how == "state carried through each document"
    assert found.state_bytes and found.state_bytes > 0

    whole = evaluate_text(model, text, reset="never", start_token=END)
    assert whole.loss == pytest.approx(np.mean(by_hand(model, [END, *TOKENS.tolist()])), rel=1e-5)
    assert sum(bucket.predicted for bucket in whole.by_position) == 500
    nats = by_hand(model, [END, *TOKENS.tolist()])
    second = whole.by_position[1]  # from 16 to 31 tokens before
    assert (second.start, second.stop, second.predicted) == (16, 32, 16)
    assert second.loss == pytest.approx(np.mean(nats[15:31]), rel=1e-5)


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_predict_each_token_once(name: str) -> None:
    """Windows of 33, the last of them moved back to end with the text."""
    model = build(WINDOWED[name])
    found = evaluate_text(model, Text([TOKENS]), context=33, batch_size=4)
    nats: list[float] = []
    if name == "masked":
        windows = TextWindows(Text([TOKENS]), length=33, advance=33, masked=True)
        for item in (windows[i] for i in range(len(windows))):
            with torch.no_grad():
                logits = model(item["tokens"][None], masked=item["masked"][None])[0]
            nats += F.cross_entropy(logits, item["tokens"], reduction="none")[item["scored"]].tolist()
    else:
        advance, stop = {"perceiver": 16}.get(name, 32), 1
        if name == "perceiver":  # the first tokens from beginnings of the first window, of which each predicts 16
            nats, stop = by_hand(model, TOKENS[:17].astype(int).tolist()), 17
        while stop < len(TOKENS):
            end = 33 if stop <= 17 else min(stop + advance, len(TOKENS))
            nats += by_hand(model, TOKENS[end - 33 : end].astype(int).tolist())[stop - end :]
            stop = end
    assert found.predicted == len(nats) == 499
    assert found.loss == pytest.approx(np.mean(nats), rel=1e-5)
    assert found.how == "windows of 33 tokens" + (", each token hidden once" if name == "masked" else "")


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 99), max_size=8), st.integers(1, 40), st.integers(1, 5))
def test_however_a_text_is_held_and_read_it_scores_the_same(starts: list[int], piece: int, batch: int) -> None:
    model = build(STREAMING["fastformer"])
    tokens = TOKENS[:100]
    cut = starts[0] if starts else 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "state_is_constant", lambda model: True)  # a second's work
        whole = evaluate_text(model, Text([tokens], starts), start_token=END)
        patch.setattr(score, "PIECES", (piece, piece))
        parts = evaluate_text(model, Text([tokens[:cut], tokens[cut:]], starts), start_token=END, batch_size=batch)
    assert parts.predicted == whole.predicted == 100 - (0 not in starts)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_memory_does_not_grow_with_the_text() -> None:
    """No tensor of a long text is larger than a piece's."""
    model = build(STREAMING["fastformer"])
    text = Text([np.tile(TOKENS, 40)], [0])
    with torch.profiler.profile(profile_memory=True) as profile:
        evaluate_text(model, text)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    assert max(event.nbytes() for event in events) < 2048 * VOCABULARY * 4 * 4
    assert evaluate_text(model, text).predicted == 40 * 500 - 1


def test_models_of_published_packages_are_scored_in_windows() -> None:
    from subquadratic.compat.performer_pytorch import PerformerLM

    sizes = {"num_tokens": VOCABULARY, "max_seq_len": 32, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8}
    model = PerformerLM(**sizes, causal=True).eval()
    found = evaluate_text(model, Text([TOKENS]))
    tokens = torch.from_numpy(TOKENS.astype(np.int64))
    windows = torch.cat((tokens.unfold(0, 32, 31), tokens[None, -32:]))  # 16 predict 31 tokens each; the last, the 3 that are left
    with torch.no_grad():
        nats = F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none")
    wanted = torch.cat((nats[:-1].flatten(), nats[-1, -3:]))
    assert found.predicted == len(wanted) == 499
    assert found.loss == pytest.approx(float(wanted.mean()), rel=1e-5)
    with pytest.raises(ValueError, match="bidirectional"):
        evaluate_text(PerformerLM(**sizes), Text([TOKENS]))


def test_a_model_that_knows_the_text_scores_well() -> None:
    model = build(sq.FastformerConfig(**SIZES, token_shift=True))
    tokens = np.tile(np.arange(8), 60)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(torch.from_numpy(tokens[None, :65])).backward()
        optimizer.step()
    found = evaluate_text(model, Text([tokens]))
    assert found.accuracy > 0.98
    assert found.by_position[-1].loss < 0.5


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("transformer", {"reset": "documents"}, "reset must be 'windows'"),
        ("masked", {"reset": "never"}, "reset must be 'windows'"),
        ("performer", {"reset": "never", "context": 8}, "context is for reset='windows'"),
        ("linformer", {"context": 42}, "context must be at most 40"),
    ],
)
def test_what_a_model_cannot_do_is_told(name: str, arguments: dict[str, Any], message: str) -> None:
    model = build((STREAMING | WINDOWED)[name])
    with pytest.raises(ValueError, match=message):
        evaluate_text(model, Text([TOKENS]), **arguments)


def test_damage_and_want_of_text_are_told() -> None:
    model = build(STREAMING["fastformer"])
    with pytest.raises(ValueError, match="too short"):
        evaluate_text(model, Text([TOKENS[:1]]))
    with pytest.raises(ValueError, match="too short"):
        evaluate_text(model, Text([TOKENS[:1]]), context=8)
    with pytest.raises(ValueError, match="less than vocab_size"):
        evaluate_text(model, Text([np.array([1, 2, 50])]))
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan  # type: ignore[union-attr]
    for arguments in ({}, {"context": 8}):
        with pytest.raises(ValueError, match="loss is nan"):
            evaluate_text(model, Text([TOKENS]), **arguments)  # type: ignore[arg-type]


def test_short_documents_have_a_state_too() -> None:
    model = sq.LanguageModel(sq.FastformerConfig(dim=16, depth=1, heads=2), vocab_size=20)
    found = evaluate_text(model, Text([np.arange(20)], [0, 7, 12]), start_token=0)
    assert found.state_bytes == model.init_state(1).nbytes()
