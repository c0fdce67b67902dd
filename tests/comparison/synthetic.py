"""Comparisons that nobody ran, with everything that a real one has, for tests of what is made of them."""

import itertools
import math
import random
from typing import Any

from subquadratic.comparison.results import Comparison, Cut, Entry, Point, Rate, Span, Speed, Trial

OURS = ("performer", "linformer", "fastformer", "perceiver_ar", "feedback_transformer", "gated_linear", "transformer")
ENDS = dict(zip(OURS, (1.93, 2.05, 2.12, 2.01, 2.60, 1.90, 1.98), strict=True))  # bits/byte at the end of training
RATE = dict(zip(OURS, (21_000, 23_000, 26_000, 15_000, 2_500, 18_000, 14_000), strict=True))  # tokens a second
POWER = {"transformer": 2.0, "perceiver_ar": 1.3}  # of the length, in time and memory
LENGTH = 4096


def comparison(
    *, names: tuple[str, ...] = OURS, seeds: int = 3, unit: str = "bits/byte", noise: float = 0.006, seed: int = 0, **changes: Any
) -> Comparison:
    """Seven models of ours and three seeds, after two minutes of training each, all finished."""
    draw = random.Random(seed)
    kind = "classification" if unit == "accuracy" else "language"
    result = Comparison(
        settings={
            "length": LENGTH,
            "batch_size": 2,
            "equal": "time",
            "seeds": seeds,
            "parameters": 2_400_000,
            "run_seconds": 120.0,
            "run_tokens": None,
            "run_flops": None,
            "validation_tokens": 250_000,
        },
        machine={
            "processor": "Example CPU 8480+",
            "cores": 2,
            "threads": 2,
            "gpu": None,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "kernels": "GCC 12.2, x86-64-v4",
            "packages": {"subquadratic": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6"},
            "revision": "0123456789ab",
            "code": "ba9876543210",
            "date": "2026-06-01T12:00:00+00:00",
        },
        data={
            "name": "texts",
            "text": "my/texts: 8.67 + 0.99 MB to train + validate on, 464 + 69 documents",
            "digest": "b88634198c25",
            "kind": kind,
            "causal": True,
            "tokenizer": "bytes",
            "train_tokens": 8_670_000,
            "validation_tokens": 990_000,
            "references": {"most common class": 0.25} if unit == "accuracy" else {"unigram": 4.55, "xz": 1.62},
        },
        unit=unit,
        entries=[entry(name, draw) for name in names],
        command=["subq", "compare", "--data", "my/texts", "--length", "4096", "--budget", "42m", "--seeds", str(seeds)],
        started="2026-06-01T12:00:00+00:00",
        seconds=2712.0,
        interrupted=False,
    )
    order = [draw.gauss(0, noise / 2) for _ in range(seeds)]  # what all models with one seed have in common: the order of the data
    result.trials = [trial(name, number, draw, unit, noise, order[number]) for name in names for number in range(seeds)]
    result.speeds = sorted((found for name in names for found in speeds(name, draw)), key=lambda speed: speed.length)  # as in a session
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def entry(name: str, draw: random.Random, **changes: Any) -> Entry:
    rates = [
        Rate(rate=rate, score=1.7 + 0.1 * math.log(rate / 2e-3) ** 2 + 0.01 * draw.random(), steps=40, seconds=6.1)
        for rate in (5e-4, 1e-3, 2e-3, 4e-3)
    ]
    rates.append(Rate(rate=8e-3, score=None, steps=12, seconds=1.9))
    values = dict(
        name=name,
        source="ours",
        options={"dim": 256, "depth": 4, "heads": 4},
        parameters=2_400_000 + draw.randrange(-40_000, 40_000),
        flops_per_token=1.5e7,
        step_seconds=0.4,
        memory_bytes=310_000_000,
        rates=rates,
        rate=2e-3,
    )
    return Entry(**{**values, **changes})


def end_of(name: str) -> float:
    return ENDS.get(name, 2.2 + 0.01 * len(name))


def trial(name: str, seed: int, draw: random.Random, unit: str = "bits/byte", noise: float = 0.006, shift: float = 0.0) -> Trial:
    end = end_of(name) + shift + draw.gauss(0, noise)
    rate = RATE.get(name, 12_000) * draw.uniform(0.98, 1.02)
    convert = (lambda value: 1.2 - 0.3 * value) if unit == "accuracy" else (lambda value: value)
    curve = [
        Point(
            step=step,
            tokens=step * 8192,
            seconds=step * 8192 / rate,
            flops=step * 8192 * 1.5e7,
            value=convert(end + 3 * math.exp(-5 * share) - 3 * math.exp(-5)),
            train=end * 0.7,
        )
        for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        for step in [max(1, round(share * 120 * rate / 8192))]
    ]
    reach = 64 if name == "fastformer" else 1024 if name in ("performer", "linformer") else LENGTH
    seen = lambda context: convert(end + 0.08 * max(0.0, math.log2(reach / min(context, reach))))  # noqa: E731
    starts = [0, *(2**power for power in range(4, 13))]
    return Trial(
        entry=name,
        seed=seed,
        status="done",
        folder=f"runs/{name}-{seed}",
        steps=curve[-1].step,
        tokens=curve[-1].tokens,
        flops=curve[-1].flops,
        seconds=curve[-1].seconds,
        value=convert(end),
        loss=end * 0.69,
        accuracy=0.6,
        predicted=249_135,
        curve=curve,
        positions=[Span(start=a, stop=b, predicted=(b - a) * 60, value=seen(b)) for a, b in itertools.pairwise(starts)],
        cuts=[Cut(context=2**power, predicted=30_000, value=seen(2**power) + draw.gauss(0, noise / 20)) for power in (4, 6, 8, 10, 12)],
        sample=f"def {name}(self, value):\n    return self._{seed}[value]\n",
        peak_bytes=410_000_000 + 1000 * seed,
    )


def speeds(name: str, draw: random.Random) -> list[Speed]:
    found, power, rate = [], POWER.get(name, 1.0), 1.4 * RATE.get(name, 12_000)
    for length in (256, 1024, 4096, 16384, 65536):
        if (name == "transformer" and length > 16384) or (name == "feedback_transformer" and length > 4096):
            found.append(Speed(entry=name, length=length, note="does not fit" if name == "transformer" else "took too long"))
            continue
        scale = length / rate * (1 + (length / 8192) ** (power - 1) * (power > 1))
        jitter = lambda seconds: [seconds * math.exp(draw.gauss(0, 0.02)) for _ in range(7)]  # noqa: E731
        found.append(
            Speed(
                entry=name,
                length=length,
                train_seconds=jitter(scale),
                train_bytes=int(4e4 * length * (1 + (length / 4096) ** (power - 1) * (power > 1))),
                prefill_seconds=jitter(scale / 3),
                token_seconds=jitter(1.2e-3 * (1 + length / 2e4 * (power > 1))),
                state_bytes=int(2e5 if power == 1 else 8192 * length),
            )
        )
    return found


def plain(values: dict[str, list[float | None]], **changes: object) -> Comparison:
    """A comparison with these scores, by entry and seed, and nothing else; None is a run that failed."""
    found = comparison(names=tuple(values), seeds=1, speeds=[], **changes)
    found.trials = [
        Trial(entry=name, seed=seed, status="failed", error="ValueError: bad")
        if score is None
        else Trial(entry=name, seed=seed, status="done", value=score)
        for name, scores in values.items()
        for seed, score in enumerate(scores)
    ]
    return found


def one_failed_one_skipped() -> Comparison:
    """Linformer failed with one seed, Feedback Transformer was not tried, Perceiver AR failed with all."""
    found = comparison()
    skipped = found.entry("feedback_transformer")
    skipped.skipped = "one step takes 9.1 s: 13 steps fit into 120 s, and 50 are the least that is worth comparing"
    skipped.rates, skipped.rate = [], None
    found.trials = [trial for trial in found.trials if trial.entry != "feedback_transformer"]
    found.speeds = [speed for speed in found.speeds if speed.entry != "feedback_transformer"]
    for run in found.trials:
        if (run.entry, run.seed) == ("linformer", 1) or run.entry == "perceiver_ar":
            fail(run, "RuntimeError: the loss is NaN after step 212")
    return found


def fail(run: Trial, error: str) -> None:
    run.status, run.error, run.value, run.loss, run.accuracy = "failed", error, None, None, None
    run.curve, run.positions, run.cuts, run.sample = run.curve[:3], [], [], ""


def halfway() -> Comparison:
    """Interrupted: ten of 21 runs are done, and no speed is measured."""
    found = comparison(interrupted=True, speeds=[])
    for index, run in enumerate(sorted(found.trials, key=lambda run: run.seed)):
        if index >= 10:
            found.trials[found.trials.index(run)] = Trial(entry=run.entry, seed=run.seed)
    return found


def hostile() -> Comparison:
    """Names, samples and errors that a page must not obey, and long ones."""
    bad = '<script>alert("x")</script>&amp;\u202e'
    names = (
        "performer",
        "transformer",
        f"models/{bad}.py:build",
        "my/very/long/path/to/a/model/that/somebody/once/trained/for/a_long_time_with_a_long_name.py:build",
    )
    found = comparison(names=names)
    for item in found.entries[2:]:
        item.source = "file"
    found.data["name"] = found.data["text"] = f"{bad} \x1b[31m \x00"
    found.data["references"] = {bad: 3.0}
    found.machine["processor"] = bad
    found.command = ["subq", "compare", "--data", f"{bad}'"]
    for run in found.trials:
        run.sample = f"{bad}\x00\x07\ud800 tail </pre> {{{{ 7 * 7 }}}}\n" + "long" * 100
    fail(found.trials[-1], f"ValueError: {bad}")
    return found
