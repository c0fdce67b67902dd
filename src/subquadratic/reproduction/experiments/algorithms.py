"""Following variables through a program (Feedback Transformer), and evaluating nested expressions (Long Range Arena).

Axes: B batch, N length.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ... import models
from ...costs.cost import parameter_count
from ...data.tasks import make_task
from ...heads.language_model import LanguageModel
from ...heads.sequence_classifier import SequenceClassifier
from ..claim import Measurement, Plot, Setting
from .tasks import accuracy, batches, solved
from .training import Done, Plan, seeded, train

LENGTH = 128  # of a program


def variables(setting: Setting) -> Measurement:
    """Two layers of a Feedback Transformer beside four of a Transformer."""
    forms = {
        "Feedback, 2 layers": models.FeedbackTransformerConfig(dim=64, depth=2, heads=4, memory_length=64),
        "Transformer, 4 layers": models.TransformerConfig(dim=64, depth=4, heads=4),
    }
    found = _programs(setting, forms)
    score = {name: value for name, (value, _, _) in found.items()}
    feedback, transformer = score.values()
    return _told(setting, found, {"Feedback": feedback, "Transformer": transformer, "gap": feedback - transformer})


def segments(setting: Setting) -> Measurement:
    """Segments of 1, 2 and 8 tokens, inside of which a Feedback Transformer attends to hidden states instead of memories."""
    forms = {
        f"segments of {size}": models.FeedbackTransformerConfig(dim=64, depth=2, heads=4, memory_length=64, segment_length=size)
        for size in (1, 2, 8)
    }
    found = _programs(setting, forms)
    score = [value for value, _, _ in found.values()]
    return _told(setting, found, {"1 less 2": score[0] - score[1], "1 less 8": score[0] - score[2]})


def _programs(setting: Setting, forms: dict[str, Any]) -> dict[str, tuple[float, Done, int]]:
    task = make_task("variables", length=LENGTH, variables=2, seed=setting.seed)
    plan, found = Plan(steps=setting.scaled(3000, least=2), batch=setting.scaled(64, least=2), rate=1e-3, every=200), {}
    for name, config in forms.items():
        model = seeded(setting, LanguageModel, config, vocab_size=task.vocab_size, max_length=LENGTH)
        until = solved(model, task, setting, enough=0.995)
        done = train(model, batches(task, plan.batch), plan, setting, until=until, name=name)
        found[name] = accuracy(model, task, setting), done, parameter_count(model)
    return found


def _told(setting: Setting, found: dict[str, tuple[float, Done, int]], numbers: dict[str, float]) -> Measurement:
    rows = [[n, f"{p:,}", f"{s:.1%}", f"{len(d.losses):,}", f"{d.seconds:,.0f} s"] for n, (s, d, p) in found.items()]
    return Measurement(
        numbers=numbers,
        columns=["model", "parameters", "printed values right", "steps", "training"],
        rows=rows,
        plot=Plot(
            x="step", y="loss of printed values, nats", x_log=False, y_log=False, series={n: d.curve() for n, (_, d, _) in found.items()}
        ),
        setup=f"2 variables, programs of {LENGTH} tokens, width 64, 4 heads, batches of 64, none twice",
    )


def listops_ceiling(setting: Setting) -> Measurement:
    """What the first token of an expression, the outermost operator, says of its value."""
    task = make_task("listops", length=2000, min_length=500, seed=setting.seed)
    count = setting.scaled(24_000, least=200)
    items: list[Any] = [task.train[i] for i in range(count)]
    pairs = [(int(item["tokens"][0]), int(item["label"])) for item in items]
    half = count // 2  # what is learned on one half is asked of the other
    best = {
        first: Counter(label for token, label in pairs[:half] if token == first).most_common(1)[0][0]
        for first in {t for t, _ in pairs[:half]}
    }
    common = Counter(label for _, label in pairs[:half]).most_common(1)[0][0]
    rest = pairs[half:]
    first = sum(best.get(token, common) == label for token, label in rest) / len(rest)
    majority = sum(label == common for _, label in rest) / len(rest)
    return Measurement(
        numbers={"first token": first, "majority": majority},
        columns=["what is read", "accuracy"],
        rows=[["nothing (most common value)", f"{majority:.1%}"], ["the first token", f"{first:.1%}"]],
        setup=f"{count:,} expressions of 500 to 2,000 tokens, rules from one half, accuracy on the other",
    )


def listops(setting: Setting) -> Measurement:
    """Classifiers of expressions of 100 to 300 tokens."""
    length = 300
    task = make_task("listops", length=length, min_length=100, seed=setting.seed)
    common: dict[str, Any] = dict(dim=64, depth=2, heads=2, causal=False, positions="learned")
    forms = {
        "exact attention": models.TransformerConfig(**common),
        "Performer": models.PerformerConfig(**common, features=64),
        "Linformer": models.LinformerConfig(**common, max_length=length, slots=64),
    }
    plan, found = Plan(steps=setting.scaled(3000, least=2), batch=setting.scaled(32, least=2), rate=1e-3, every=300), {}
    for name, config in forms.items():
        model = seeded(setting, SequenceClassifier, config, vocab_size=task.vocab_size, num_classes=10, max_length=length)
        done = train(model, batches(task, plan.batch), plan, setting, name=name)
        found[name] = accuracy(model, task, setting, count=1000), done
    rows = [[name, f"{score:.1%}", f"{done.last:.3f}", f"{done.seconds:,.0f} s"] for name, (score, done) in found.items()]
    return Measurement(
        numbers={name: score for name, (score, _) in found.items()},
        columns=["model", "accuracy", "training loss, nats", "training"],
        rows=rows,
        plot=Plot(
            x="step", y="training loss, nats", x_log=False, y_log=False, series={name: done.curve() for name, (_, done) in found.items()}
        ),
        setup=(
            f"expressions of 100 to 300 tokens, width 64, 2 layers of 2 heads, mean over positions, {plan.steps:,} steps of 32, none twice"
        ),
    )
