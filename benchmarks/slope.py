"""Time of a training step of the three linear causal models on long sequences, for its slope against the length.

    python benchmarks/slope.py --out runs/slope
    cp runs/slope/results.json benchmarks/results/cpu-intel/slope.json

The cases `lengths/train/N` without what is slow there, and with time for more rounds than `subq bench` gives them: the first steps on long
sequences take their memory from the system.
"""

import argparse
import dataclasses
from pathlib import Path

from subquadratic.benchmark.run import measure
from subquadratic.benchmark.suites import registry, select
from subquadratic.benchmark.work import Setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768, 65536])
    parser.add_argument("--budget", type=float, default=75.0, help="seconds for a case")
    parser.add_argument("--give_back", action="store_true", help="return freed memory to the system after every step")
    given = parser.parse_args()
    cases = [
        dataclasses.replace(case, sides=("performer", "linformer", "fastformer"), budget=given.budget)
        for case in select([f"lengths/train/{length}" for length in given.lengths], registry())
    ]
    measure(cases, setting=Setting(keep_memory=not given.give_back), memory=False, out=given.out, show=print)


if __name__ == "__main__":
    main()
