"""Following variables through a program (Feedback Transformer), and evaluating nested expressions (Long Range Arena).

Axes: B batch, N length.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from ... import models
from ...data.tasks import make_task
from ...heads.language_model import LanguageModel
from ...heads.quantization import parameter_count
from ...heads.sequence_classifier import SequenceClassifier
from ..claim import Measurement, Plot, Setting
from ..shared import shared
from .controls import leak, without_attention_
from .tasks import accuracy, batches, solved
from .training import Done, Plan, seeded, train

VARIABLES, BATCH, RATE = 2, 64, 3e-3
STAGES = ((32, 800), (64, 600), (128, 600))  # length of programs, steps at most; each begins with the weights of the one before
LENGTH = STAGES[-1][0]
ENOUGH = 0.995
SEEDS = 2
SIZES: dict[str, Any] = dict(dim=64, heads=4)
FEEDBACK, TRANSFORMER, CONTROL = "Feedback, 2 layers", "Transformer, 4 layers", "Transformer without attention"


@dataclass(kw_only=True)
class Found:
    """A trained model: its share of printed values right, the loss over all stages, steps, seconds, and how far logits move when later
    tokens change."""

    accuracy: float
    curve: list[tuple[float, float]]
    steps: int
    seconds: float
    parameters: int
    leak: float


def variables(setting: Setting) -> Measurement:
    """Two layers of a Feedback Transformer beside four of a Transformer, by the same curriculum."""
    found = _programs(setting, (FEEDBACK, TRANSFORMER))
    control = _program(setting, CONTROL)
    feedback, transformer = ([one.accuracy for one in found[name]] for name in (FEEDBACK, TRANSFORMER))
    gaps = [a - b for a, b in zip(feedback, transformer, strict=True)]
    numbers = {"Feedback": min(feedback), "Transformer": max(transformer), "gap": min(gaps), "attention": min(feedback) - control.accuracy}
    return _told(found | {CONTROL: [control]}, numbers)


def segments(setting: Setting) -> Measurement:
    """Segments of 1, 2 and 8 tokens, inside of which a Feedback Transformer attends to hidden states instead of memories."""
    found = _programs(setting, (FEEDBACK, *(f"segments of {size}" for size in (2, 8))))
    score = [[one.accuracy for one in many] for many in found.values()]
    least = {f"1 less {size}": min(a - b for a, b in zip(score[0], score[i], strict=True)) for i, size in ((1, 2), (2, 8))}
    control = _program(setting, CONTROL)
    return _told(found | {CONTROL: [control]}, {**least, "Feedback": min(score[0]), "attention": min(score[2]) - control.accuracy})


def _programs(setting: Setting, names: tuple[str, ...]) -> dict[str, list[Found]]:
    return {name: [_program(replace(setting, seed=setting.seed + i), name) for i in range(SEEDS)] for name in names}


@shared
def _program(setting: Setting, name: str) -> Found:
    """A model by its name, taught shorter programs first; once for all claims that ask."""
    task = make_task("variables", length=LENGTH, variables=VARIABLES, seed=setting.seed)
    model = seeded(setting, LanguageModel, _config(name), vocab_size=task.vocab_size)
    if name == CONTROL:
        without_attention_(model)
    runs = []
    for length, steps in STAGES:
        stage = make_task("variables", length=length, variables=VARIABLES, seed=setting.seed)
        plan = Plan(steps=setting.scaled(steps, least=2), batch=setting.scaled(BATCH, least=2), rate=RATE, every=100)
        until = solved(model, stage, setting, enough=ENOUGH) if length == LENGTH else None
        said = f"{name}, {length} tokens, seed {setting.seed},"
        runs.append(train(model, batches(stage, plan.batch), plan, setting, until=until, name=said))
    whole = Done(losses=[loss for run in runs for loss in run.losses], seconds=sum(run.seconds for run in runs))
    items: list[Any] = [task.validation[i]["tokens"] for i in range(4)]
    return Found(
        accuracy=accuracy(model, task, setting),
        curve=whole.curve(),
        steps=len(whole.losses),
        seconds=whole.seconds,
        parameters=parameter_count(model),
        leak=leak(model, torch.stack(items), other=lambda late: (late + 1) % task.vocab_size),
    )


def _config(name: str) -> Any:
    if name in (TRANSFORMER, CONTROL):
        return models.TransformerConfig(**SIZES, depth=4)
    segment = 1 if name == FEEDBACK else int(name.split()[-1])
    return models.FeedbackTransformerConfig(**SIZES, depth=2, memory_length=64, segment_length=segment)


def _told(found: dict[str, list[Found]], numbers: dict[str, float]) -> Measurement:
    numbers["leak"] = max(one.leak for many in found.values() for one in many)
    rows = [
        [
            name,
            f"{many[0].parameters:,}",
            ", ".join(f"{one.accuracy:.1%}" for one in many),
            ", ".join(f"{one.steps:,}" for one in many),
            f"{sum(one.seconds for one in many):,.0f} s",
        ]
        for name, many in found.items()
    ]
    stages = ", ".join(f"{steps:,} of {length} tokens" for length, steps in STAGES)
    return Measurement(
        numbers=numbers,
        columns=["model", "parameters", "printed values right, by seed", "steps", "training"],
        rows=rows,
        plot=Plot(
            x="step", y="loss of printed values, nats", x_log=False, y_log=False, series={n: many[0].curve for n, many in found.items()}
        ),
        setup=(
            f"{VARIABLES} variables, judged on programs of {LENGTH} tokens; width 64, 4 heads; at most {stages}, in batches of "
            f"{BATCH}, none "
            f"twice, at a rate of {RATE:g}, each length with its own warm-up and cosine; {SEEDS} seeds, one for the control"
        ),
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
    """Classifiers of expressions of 40 to 120 tokens, judged on the same ones."""
    length, count = 120, setting.scaled(4000, least=8)
    task = make_task("listops", length=length, min_length=40, seed=setting.seed)
    common: dict[str, Any] = dict(dim=64, depth=2, heads=2, causal=False, positions="learned")
    forms = {
        "exact attention": models.TransformerConfig(**common),
        "Performer": models.PerformerConfig(**common, features=64),
        "Linformer": models.LinformerConfig(**common, max_length=length, slots=32),
        "without attention": models.PerformerConfig(**common, features=64),
    }
    plan, found = Plan(steps=setting.scaled(3000, least=2), batch=setting.scaled(32, least=2), rate=1e-3, every=300), {}
    for name, config in forms.items():
        model = seeded(setting, SequenceClassifier, config, vocab_size=task.vocab_size, num_classes=10, max_length=length)
        if name == "without attention":
            without_attention_(model)
        done = train(model, batches(task, plan.batch), plan, setting, name=name)
        found[name] = accuracy(model, task, setting, count=4000), done
    scores = {name: score for name, (score, _) in found.items()}
    worth = scores["Performer"] - scores["without attention"]
    return Measurement(
        numbers=scores | {"attention": worth},
        margins={
            "Performer": _error(count, scores["Performer"]),
            "attention": _error(count, scores["Performer"], scores["without attention"]),
        },
        columns=["model", "accuracy", "training loss, nats", "training"],
        rows=[[name, f"{score:.1%}", f"{done.last:.3f}", f"{done.seconds:,.0f} s"] for name, (score, done) in found.items()],
        plot=Plot(
            x="step", y="training loss, nats", x_log=False, y_log=False, series={name: done.curve() for name, (_, done) in found.items()}
        ),
        setup=(
            f"expressions of 40 to {length} tokens, width 64, 2 layers of 2 heads, mean over positions, {plan.steps:,} steps of 32, none "
            f"twice; {count:,} expressions to judge, the same for all; the intervals are those of sampling them, from one seed of training"
        ),
        finding=f"Attention is worth {100 * worth:+.1f} points of accuracy to the Performer: the first token needs none.",
    )


def _error(count: int, *shares: float) -> float:
    """Half of the 95% interval of a share among `count`, or of the difference of two, as if they were independent."""
    return 1.96 * math.sqrt(sum(share * (1 - share) for share in shares) / count)
