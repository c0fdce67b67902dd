"""Whether a change made everyday work faster: two installs, a process each, interleaved.

    python -m venv /tmp/base && /tmp/base/bin/pip install -c constraints.txt "subquadratic @ git+file://$PWD@COMMIT"
    python benchmarks/against.py --base /tmp/base/bin/python --new python
    python benchmarks/against.py --base /tmp/base/bin/python --new python --cases 'train/*' 'padded/*' --rounds 15 --out against.json
    python benchmarks/against.py ... --threads 1 --cpu_time      # on a machine with other work to do

What the cases are is said in everyday.py. Each case runs in a fresh process of each install; rounds take turns, and begin with the other
install each time. Printed are medians per call, and new over base: the median of the rounds' own ratios, with their quartiles; below 1 the
new install is faster.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

SHORT = 0.2  # seconds: a reading takes at least that
HERE = Path(__file__).parent


class Install:
    """A process that computes one case with an install's Python."""

    def __init__(self, python: list[str], threads: int | None, case: str) -> None:
        environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([*python, str(HERE / "everyday.py")], env=environment, **pipes)
        self.tokens = self.ask(case=case)["tokens"]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"its process ended with status {self.process.wait()}"}
        if "error" in answer:
            self.close()
            raise RuntimeError(answer["error"])
        return answer

    def reading(self, calls: int, clock: str) -> float:
        return float(self.ask(calls=calls)[clock]) / calls

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(case: str, pythons: dict[str, list[str]], rounds: int, threads: int | None, clock: str) -> dict[str, Any]:
    """Seconds of a call, a number per round and install.

    Raises:
        RuntimeError: an install cannot compute the case.
    """
    installs: dict[str, Install] = {}
    try:
        for name, python in pythons.items():
            try:
                installs[name] = Install(python, threads, case)
            except RuntimeError as error:
                raise RuntimeError(f"{name}: {error}") from error
        first = {name: install.reading(1, "seconds") for name, install in installs.items()}
        calls = max(1, round(SHORT / max(first.values())))
        seconds: dict[str, list[float]] = {name: [] for name in installs}
        for round_ in range(rounds):
            for name in list(installs)[:: 1 if round_ % 2 == 0 else -1]:
                seconds[name].append(installs[name].reading(calls, clock))
        return {"case": case, "tokens": {name: install.tokens for name, install in installs.items()}, "calls": calls, "seconds": seconds}
    finally:
        for install in installs.values():
            install.close()


def line_of(result: dict[str, Any]) -> str:
    base, new = (statistics.median(result["seconds"][name]) for name in ("base", "new"))
    low, middle, high = statistics.quantiles(ratios(result), n=4, method="inclusive")
    return f"{result['case']:36} {1e3 * base:10.2f} ms {1e3 * new:10.2f} ms   {middle:.3f} ({low:.3f} to {high:.3f})"


def ratios(result: dict[str, Any]) -> list[float]:
    """New over base, round by round."""
    return [new / base for base, new in zip(result["seconds"]["base"], result["seconds"]["new"], strict=True)]


def chosen(patterns: list[str], python: list[str]) -> list[str]:
    """The cases that patterns name, in their order.

    Raises:
        SystemExit: a pattern names none.
    """
    said = subprocess.run(
        [*python, "-c", "import everyday; print(*everyday.CASES, sep='\\n')"], cwd=HERE, capture_output=True, text=True, check=False
    )
    if said.returncode:
        raise SystemExit(f"--new {' '.join(python)} cannot import subquadratic:\n{said.stderr}")
    cases = said.stdout.split()
    for pattern in patterns:
        if not fnmatch.filter(cases, pattern):
            raise SystemExit(f"--cases: none is called {pattern}; there are\n  " + "\n  ".join(cases))
    return [case for case in cases if any(fnmatch.fnmatch(case, pattern) for pattern in patterns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="Python of the install that is compared against")
    parser.add_argument("--new", required=True, help="Python of the other install")
    parser.add_argument("--cases", nargs="+", default=["*"], help="names or patterns")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of each process; PyTorch's own choice otherwise")
    parser.add_argument("--cpu_time", action="store_true", help="time that a process computes, instead of time that passes")
    parser.add_argument("--out", type=Path, help="a JSON file for all readings")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds must be at least 2")
    pythons = {"base": given.base.split(), "new": given.new.split()}
    results = []
    print(f"{'case':36} {'base':>13} {'new':>13}   new / base (quartiles)")
    for case in chosen(given.cases, pythons["new"]):
        try:
            results.append(compare(case, pythons, given.rounds, given.threads, "cpu_seconds" if given.cpu_time else "seconds"))
            print(line_of(results[-1]), flush=True)
        except RuntimeError as error:
            print(f"{case:36} {error}", flush=True)
        if given.out is not None:
            temporary = given.out.with_name(given.out.name + ".part")
            temporary.write_text(json.dumps(results, indent=1) + "\n")
            temporary.replace(given.out)


if __name__ == "__main__":
    main()
