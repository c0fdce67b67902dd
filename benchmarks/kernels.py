"""What each C kernel gains: the training step that leans most on it, with all kernels and with all but that one, interleaved.

    python benchmarks/kernels.py                                         # the variant that is loaded here
    python benchmarks/kernels.py --variant x86-64-v3 --rounds 15         # another one that is installed
    python benchmarks/kernels.py --kernels mean "rotary positions" --length 4096
    python benchmarks/kernels.py --threads 1 --cpu_time                  # on a machine with other work to do

Width 256, depth 4, 4 heads, vocabulary 256, batch 1, float32. *Gain* is the time without the kernel over the time with it: the median of
the rounds' ratios, with their quartiles.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

import subquadratic as sq
from subquadratic.benchmark.machine import heading
from subquadratic.benchmark.timing import interleave, ratios
from subquadratic.core.backend import computed_by
from subquadratic.core.free_memory import keep_freed_memory
from subquadratic.kernels.native import library
from subquadratic.kernels.native.processor import VARIANTS

SIZE: dict[str, Any] = {"dim": 256, "depth": 4, "heads": 4}
# What is asked in the place of the kernel's condition, the models whose steps use it, and how it is turned off.
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "FAVOR+": ("attention.favor.op.computed_by", ("performer", "performer, bidirectional")),
    "exact attention": ("attention.softmax.op.computed_by", ("transformer", "transformer, bidirectional", "linformer, bidirectional")),
    "slots": ("attention.low_rank.op.computed_by", ("linformer",)),
    "running mean": ("attention.additive.native_running.fits", ("fastformer",)),
    "mean": ("attention.additive.native_mean.fits", ("fastformer, bidirectional",)),
    "feed-forward": ("layers.feed_forward.native.takes_native", ("performer", "linformer", "transformer")),
    "residual sum and norm": ("layers.norms.native.takes_native", ("performer", "fastformer, bidirectional")),
    "rotary positions": ("layers.rotary.op.computed_by", ("performer", "fastformer")),
    "Feedback loop": ("attention.feedback.native.fits", ("feedback",)),
    "linear maps": ("layers.linear.op.takes_native", ("performer", "linformer, bidirectional")),
}
CONFIGS = {
    "performer": sq.PerformerConfig, "linformer": sq.LinformerConfig, "fastformer": sq.FastformerConfig,
    "transformer": sq.TransformerConfig, "feedback": sq.FeedbackTransformerConfig,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=[one.name for one in VARIANTS])
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu_time", action="store_true", help="time that this process computes, instead of time that passes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.cpu_time else time.perf_counter
    if given.variant is not None:
        take(given.variant)
    keep_freed_memory()
    print(f"{heading()}, {given.length:,} tokens\n\n| kernel | training step | with it | gain | quartiles |\n|---|---|---:|---:|---:|")
    for name in given.kernels:
        if name == "linear maps" and library.variant() != "x86-64-v4-amx":
            continue
        place, models = KERNELS[name]
        for model in models:
            seconds, gains = measure(step_of(model, given.length), place, given.rounds, clock)
            first, middle, third = statistics.quantiles(gains, n=4)
            print(f"| {name} | {model} | {1e3 * seconds:.0f} ms | {middle:.2f} | {first:.2f} to {third:.2f} |", flush=True)


def take(name: str) -> None:
    """Have this variant compute instead of the best one."""
    variant = next(one for one in VARIANTS if one.name == name)
    found = library.load(library.path_of(variant))
    library._own = lambda: (found, variant)  # type: ignore[assignment]


def step_of(name: str, length: int) -> Callable[[], None]:
    """A training step without the optimizer's."""
    kind, _, direction = name.partition(", ")
    options: dict[str, Any] = {"causal": not direction} if kind != "feedback" else {"memory_length": 64}
    if kind == "linformer":
        options["max_length"] = length
    torch.manual_seed(0)
    model = sq.LanguageModel(CONFIGS[kind](**SIZE, **options), vocab_size=256)
    tokens = torch.randint(0, 256, (1, length if kind != "feedback" else min(length, 256)))

    def step() -> None:
        model.zero_grad()
        model.loss(tokens).backward()

    return step


@contextmanager
def without(place: str) -> Iterator[None]:
    """PyTorch's operators where the op at ``place`` asks who computes, or whether its kernel fits."""

    def others(backend: str | None, values: torch.Tensor, **more: Any) -> str:
        return computed_by(backend, values, **more | {"native": False})

    with mock.patch(f"subquadratic.{place}", others if place.endswith("computed_by") else lambda *_: False):
        yield


def measure(step: Callable[[], None], place: str, rounds: int, clock: Callable[[], float]) -> tuple[float, list[float]]:
    """Seconds of a step with the kernel, and of each round the time without it over the time with it."""

    def step_without() -> None:
        with without(place):
            step()

    found = interleave({"with": step, "without": step_without}, rounds=rounds, budget=60.0, clock=clock)
    return statistics.median(found.seconds["with"]), ratios(found.seconds["with"], found.seconds["without"])


if __name__ == "__main__":
    main()
