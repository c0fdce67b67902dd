"""A training step with products in float32 and in bfloat16 (PyTorch's autocast), by model and width.

    python benchmarks/precision.py > benchmarks/results/cpu-zen5/precision.md
    python benchmarks/precision.py --threads 1 --cpu_time --only performer transformer

The batches are those of `subq train`'s defaults, and four times as large; losses and gradients are timed, in turns, without the optimizer.
"""

import argparse
import time

from subquadratic.benchmark.machine import heading
from subquadratic.benchmark.timing import interleave, median
from subquadratic.core.free_memory import keep_freed_memory
from subquadratic.core.threads import use_threads
from subquadratic.training import MODELS, TrainOptions
from subquadratic.training.entry import prepare
from subquadratic.training.precision import forward_precision
from subquadratic.training.resolving import resolve

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dim", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu_time", action="store_true", help="time by the CPU's clock: for one thread beside other work")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    use_threads(given.threads)
    keep_freed_memory()
    clock = time.process_time if given.cpu_time else time.perf_counter
    print(f"{heading()}\n")
    print("| model | width | batch | float32 | bfloat16 | times as fast |\n|---|" + "---:|" * 5)
    for name in given.only:
        for dim in given.dim:
            for factor in (1, 4):
                print(row(name, dim, factor, given.rounds, clock), flush=True)


def row(name: str, dim: int, factor: int, rounds: int, clock: object) -> str:
    usual = resolve(TrainOptions(model=name, max_steps=1)).batch_size or 1
    options, problem = prepare(resolve(TrainOptions(model=name, dim=dim, batch_size=factor * usual, max_steps=1)))
    model = problem.build()
    batch = problem.collate([problem.train[i] for i in range(factor * usual)])

    def step(precision: str) -> None:
        with forward_precision(precision):
            loss = problem.loss(model, batch)
        loss.backward()
        model.zero_grad()

    calls = {precision: lambda precision=precision: step(precision) for precision in PRECISIONS}
    times = interleave(calls, rounds=rounds, budget=30.0, clock=clock).seconds  # type: ignore[arg-type]
    exact, narrow = (median(times[precision]) for precision in PRECISIONS)
    return (
        f"| {name} | {dim} | {factor * usual} x {options.context} | {1e3 * exact:.1f} ms | {1e3 * narrow:.1f} ms | {exact / narrow:.2f} |"
    )


if __name__ == "__main__":
    main()
