"""How long the package takes to import, beyond torch: in fresh processes, since a module is imported only once."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from .cases import Case

# Compiled files lie in a folder of their own: an installed package has them, a checkout only where Python may write them.
CODE = """
import sys, time, torch
sys.pycache_prefix, sys.dont_write_bytecode = sys.argv[1], False
began = time.perf_counter()
import subquadratic
first = time.perf_counter()
subquadratic.LanguageModel, subquadratic.PerformerConfig
print(first - began, time.perf_counter() - began)
"""


def measure_import(case: Case, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of `import subquadratic` after torch, and of that with the models, which are loaded when they are first used.

    The first process compiles the package's files and does not count.
    """
    found: dict[str, list[float]] = {side: [] for side in case.sides}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(rounds + 1):
            done = subprocess.run([sys.executable, "-c", CODE, folder], capture_output=True, text=True, check=True)
            for side, seconds in zip(case.sides, done.stdout.split(), strict=True):
                if index:
                    found[side].append(float(seconds))
    return found
