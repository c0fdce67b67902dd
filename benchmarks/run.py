"""All benchmarks of this machine, into benchmarks/results/cpu (or cuda): results.json, table.md and drawings.

    python benchmarks/run.py
    python benchmarks/run.py --device cuda --dtype bfloat16 --suite targets

The same as `subq bench --suite full --out benchmarks/results/cpu --resume`; any further options are those of `subq bench`. About half an
hour on two quiet cores. What is measured is kept case by case: started again with the same code, it goes on where it was stopped.
"""

import sys
from pathlib import Path

from subquadratic.cli.main import main

RESULTS = Path(__file__).parent / "results"


def arguments(given: list[str]) -> list[str]:
    """The words of the command, with what is not given."""
    words = ["bench", *given]
    device = given[given.index("--device") + 1] if "--device" in given[:-1] else "cpu"
    for flag, value in (("--suite", "full"), ("--out", str(RESULTS / device.partition(":")[0]))):
        if not any(word.partition("=")[0] == flag for word in given):
            words += [flag, value]
    return [*words, "--resume"] if "--resume" not in words else words


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
