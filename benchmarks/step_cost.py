"""What one more token costs after 100 tokens and after 100,000, for the models whose state is of constant size.

    python benchmarks/step_cost.py

Medians of 40 steps each, interleaved in one run, so that the ratio counts and not the seconds.
"""

import statistics
import time

import torch

import subquadratic as sq

SHORT, LONG, PIECE, STEPS = 100, 100_000, 5_000, 40
SIZE = {"dim": 256, "depth": 4, "heads": 4}
CONFIGS = {
    "performer": sq.PerformerConfig(**SIZE),
    "linformer": sq.LinformerConfig(**SIZE, max_length=LONG + 1, positions="fixed"),
    "fastformer": sq.FastformerConfig(**SIZE),
}


@torch.no_grad()
def main() -> None:
    for name, config in CONFIGS.items():
        model = sq.LanguageModel(config, vocab_size=256).eval()
        tokens = torch.randint(0, 256, (1, LONG))
        _, early = model.extend(tokens[:, :SHORT], model.init_state(1), last_only=True)
        late = early
        for piece in tokens[:, SHORT:].split(PIECE, dim=1):
            _, late = model.extend(piece, late, last_only=True)
        times: dict[int, list[float]] = {SHORT: [], LONG: []}
        for _ in range(STEPS):
            for length, state in ((SHORT, early), (LONG, late)):
                started = time.perf_counter()
                model.extend(tokens[:, :1], state, last_only=True)
                times[length].append(time.perf_counter() - started)
        first, last = (1e3 * statistics.median(times[length]) for length in (SHORT, LONG))
        print(f"{name:<11} {first:.2f} ms after {SHORT}, {last:.2f} ms after {LONG:,}: ratio {last / first:.2f}; {late.nbytes():,} bytes")


if __name__ == "__main__":
    main()
