"""Which details and learning rates make the best default of each model, at equal training time.

    python benchmarks/defaults.py --seconds 100 --out benchmarks/results/defaults.jsonl
    python benchmarks/defaults.py --only transformer --data my.txt --seconds 900

Every candidate trains for as many steps as it could take in the time given, counted and not clocked, so that other work on the machine
changes how long the search takes and not what it finds: the step times of all candidates are measured interleaved, and a candidate gets
`--seconds` divided by its own. With `--threads 1` they are measured by the CPU's clock, which other work leaves alone.
Prints and appends one line per candidate: bits per byte of validation text, steps, parameters.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from subquadratic.core.threads import use_threads
from subquadratic.training import MODELS, TrainOptions
from subquadratic.training.display import PlainDisplay
from subquadratic.training.entry import prepare, train
from subquadratic.training.optimizer import make_optimizer
from subquadratic.training.precision import forward_precision
from subquadratic.training.resolving import resolve

BEFORE = {"precision": "float32", "schedule": "cosine", "fields": {"token_shift": True}}  # the defaults once were
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "performer": [
        {},
        BEFORE,
        {"precision": "float32"},
        {"schedule": "cosine"},
        {"fields": {"token_shift": 3}},
        {"fields": {"token_shift": 8}},
        {"learning_rate": 1.5e-3},
        {"learning_rate": 3e-3},
        {"fields": {"local_heads": 3}},
        {"fields": {"local_window": 128}},
        {"fields": {"qk_norm": True}},
        {"depth": 3},
        {"context": 512, "batch_size": 1},
    ],
    "linformer": [
        {"fields": {"token_shift": False}},
        {},
        BEFORE,
        {"learning_rate": 1e-3},
        {"fields": {"slots": 128}},
        {"fields": {"slots": 32, "share": "layer"}},
    ],
    "fastformer": [
        {"fields": {"token_shift": False}},
        {},
        BEFORE,
        {"learning_rate": 1e-3},
        {"fields": {"share_query_value": False}},
    ],
    "feedback_transformer": [{}, {"fields": {"segment_length": 32, "memory_length": 64}}, {"learning_rate": 1e-3}],
    "perceiver_ar": [{}, {"context": 256, "fields": {"latents": 128}}, {"batch_size": 1}, {"learning_rate": 1e-3}],
    "transformer": [
        {"fields": {"token_shift": False}},
        {},
        {"learning_rate": 1e-3},
        {"learning_rate": 3e-3},
        {"context": 512, "batch_size": 1},
    ],
}


def step_seconds(runs: list[TrainOptions], clock: Callable[[], float], rounds: int = 7) -> list[float]:
    """Median seconds of an optimizer step of each run, measured interleaved."""
    ready = []
    for options in runs:
        _, problem = prepare(resolve(options))
        model = problem.build()
        batch = problem.collate([problem.train[i] for i in range(resolve(options).batch_size or 1)])
        ready.append((resolve(options).precision, model, make_optimizer(model, learning_rate=1e-4, weight_decay=0.1), batch, problem.loss))
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for (precision, model, optimizer, batch, loss), seen in zip(ready, times, strict=True):
            started = clock()
            with forward_precision(precision):
                nats = loss(model, batch)
            nats.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if turn:  # the first allocates
                seen.append(clock() - started)
    return [statistics.median(seen) for seen in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="text to learn; default: Python's standard library")
    parser.add_argument("--seconds", type=float, default=100.0, help="of training, by the measured step times")
    parser.add_argument("--only", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--validation_tokens", type=int, default=200_000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="file to append the results to, one JSON object a line")
    arguments = parser.parse_args()

    use_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    chosen = [(model, changes) for model in arguments.only for changes in CANDIDATES[model]]
    runs = [TrainOptions(model=model, data=arguments.data, max_steps=1, **changes) for model, changes in chosen]
    for (model, changes), seconds in zip(chosen, step_seconds(runs, clock), strict=True):
        steps = max(1, round(arguments.seconds / seconds))
        with tempfile.TemporaryDirectory() as folder:
            options = TrainOptions(
                model=model,
                data=arguments.data,
                out=str(Path(folder) / "run"),
                max_steps=steps,
                evaluations=0,
                threads=arguments.threads,
                validation_tokens=arguments.validation_tokens,
                **changes,
            )
            result = train(options, PlainDisplay(io.StringIO()))
        assert result is not None
        line = {"model": model, **changes, "steps": steps, "step_ms": round(seconds * 1e3, 1), "bits_per_byte": result.score.bits_per_byte}
        line["parameters"] = sum(parameter.numel() for parameter in result.model.parameters())
        print(json.dumps(line), flush=True)
        if arguments.out is not None:
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
