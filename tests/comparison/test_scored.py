"""What models are scored on, what scores are compared with, and what steps are counted as."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import subquadratic as sq
from subquadratic.comparison.flops import spared_flops
from subquadratic.comparison.options import CompareOptions
from subquadratic.comparison.recording import so_far
from subquadratic.comparison.tasks import Session
from subquadratic.heads import cross_entropy


def session(**options: Any) -> Session:
    return Session(CompareOptions(**{"length": 32, "threads": 1, **options}), lambda **values: None)


def rows(path: Path) -> Path:
    path.write_text("text,kind\n" + "".join(f"{'ab' * (i % 9 + 2)}{i},{'odd' if i % 4 else 'even'}\n" for i in range(400)))
    return path


def test_the_most_common_class_is_that_of_the_rows_that_are_scored(tmp_path: Path) -> None:
    own = session(data=str(rows(tmp_path / "rows.csv")), label="kind")
    labels = [int(own.data.validation[place]["label"]) for place in range(len(own.data.validation))]
    chosen = [labels[place * len(labels) // 8] for place in range(8)]
    assert own.references(8) == {"most_common_class_accuracy": max(map(chosen.count, (0, 1))) / 8}
    assert own.references(10**6) == {"most_common_class_accuracy": max(map(labels.count, (0, 1))) / len(labels)}


def test_byte_frequencies_are_those_of_the_tokens_that_are_scored(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh" * 900 + "ab" * 400)  # the last tenth, which is held out
    own = session(data=str(text))
    assert own.references(10**6)["unigram_bits_per_byte"] == pytest.approx(1.0, abs=1e-3)
    assert own.references(2).keys() == {"unigram_bits_per_byte", "xz_bits_per_byte"}
    masked = session(data=str(text), causal=False)
    assert masked.references(7)["unigram_bits_per_byte"] == pytest.approx(1.0, abs=1e-3)


def test_tokens_of_rows_are_counted_without_padding(tmp_path: Path) -> None:
    own = session(data=str(rows(tmp_path / "rows.csv")), label="kind", batch_size=8)
    found = own.probe("performer", None, 20_000)
    lengths = [len(own.data.train[place]["tokens"]) for place in range(len(own.data.train))]
    assert found["tokens_per_step"] == pytest.approx(8 * sum(lengths) / len(lengths), abs=1)
    assert found["tokens_per_step"] < 8 * max(lengths) * 0.8


def test_a_masked_model_computes_logits_of_what_is_hidden_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words and others, " * 600)
    own = session(data=str(text), causal=False, batch_size=4)
    entry = own._contestant("transformer", None, None)
    from subquadratic.comparison.contestants import problem_of

    problem = problem_of(entry, own.data, sample_items=1)
    model = sq.LanguageModel(sq.TransformerConfig(dim=32, depth=1, heads=2, causal=False), vocab_size=260)
    from subquadratic.training.estimate import step_cost

    with torch.device("meta"):
        shapes = sq.LanguageModel(model.config, vocab_size=260)
    claimed = step_cost(shapes, problem, entry.options).flops - spared_flops(shapes, problem, entry.options)
    tokens, rows = torch.randint(0, 256, (4, 32)), []
    with FlopCounterMode(display=False) as counter:  # which takes logits of all tokens, as a run on shapes does
        model.loss(tokens).backward()
    linear = cross_entropy.linear
    monkeypatch.setattr(cross_entropy, "linear", lambda x, weight: rows.append(len(x)) or linear(x, weight))
    model.loss(tokens)
    assert rows[0] == model.count_predictions(tokens) < 32
    assert claimed == pytest.approx(counter.get_total_flops() - 3 * 2 * (128 - rows[0]) * 32 * 260, rel=1e-6)


def test_a_run_that_failed_keeps_how_far_it_came(tmp_path: Path) -> None:
    lines = (
        '{"step": 0, "validation_loss": 5.5, "validation_bits_per_byte": 8.0, "validation_accuracy": 0.0}',
        '{"step": 10, "loss": 3.0, "seconds": 2.0}',
        '{"step": 10, "validation_loss": 4.0, "validation_bits_per_byte": 6.0, "validation_accuracy": 0.1}',
        '{"step": 20, "loss": NaN, "seconds": 4.0}',
        '{"step": 20, "validation_loss": NaN, "validation_accuracy": 0.0}',
    )
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = so_far(tmp_path, unit="bits/byte", tokens_per_step=100, flops_per_token=2.0)
    assert (found["steps"], found["tokens"], found["seconds"], found["flops"]) == (20, 2000, 4.0, 4000.0)
    assert [(point["step"], point["value"]) for point in found["curve"]] == [(0, 8.0), (10, 6.0)]
    assert so_far(tmp_path / "nothing", unit="accuracy", tokens_per_step=1, flops_per_token=1.0).get("curve", []) == []
