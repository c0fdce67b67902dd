"""Training beside busy processes: tokens/s of `subq train` from two installs, interleaved.

    python benchmarks/neighbours.py --base OLD/bin/python --new NEW/bin/python --rounds 3

Each round runs both installs, each in a process of its own, beside no, one and two processes that keep a processor busy. What is printed
are medians of tokens/s, from the second quarter of the steps on, and the ratio of the two medians with the extremes of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BUSY = "while True: pass"


def tokens_per_second(command: list[str], steps: int, options: list[str]) -> float:
    """One training run's rate, between the last step of its first quarter and its last step."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [*command, "-m", "subquadratic", "train", "--out", str(run), "--max_steps", str(steps), *options]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    taken = [line for line in lines if "seconds" in line]
    first, last = taken[len(taken) // 4], taken[-1]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def beside(neighbours: int, command: list[str], steps: int, options: list[str]) -> float:
    """The rate beside so many busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
    try:
        return tokens_per_second(command, steps, options)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="Python of the install that is compared against")
    parser.add_argument("--new", required=True, help="Python of the other install")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--neighbours", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("options", nargs="*", help="further options of subq train, after --")
    given = parser.parse_args()
    installs = {"base": given.base.split(), "new": given.new.split()}
    for neighbours in given.neighbours:
        rates: dict[str, list[float]] = {name: [] for name in installs}
        for round_ in range(given.rounds):
            order = list(installs) if round_ % 2 == 0 else list(reversed(installs))
            for name in order:
                rates[name].append(beside(neighbours, installs[name], given.steps, given.options))
        base, new = (statistics.median(rates[name]) for name in ("base", "new"))
        pairs = [after / before for before, after in zip(rates["base"], rates["new"], strict=True)]
        spread = f"{min(pairs):.2f} to {max(pairs):.2f}"
        print(f"{neighbours} busy: base {base:,.0f}, new {new:,.0f} tokens/s, ratio {new / base:.2f} ({spread})", flush=True)


if __name__ == "__main__":
    main()
