"""C kernels on sizes and mistakes drawn at random, and, with ``pytest -m sanitize``, built with AddressSanitizer and UBSan.

Without sanitizers a kernel that goes a little beyond its memory gives right numbers most of the time. With them it ends the process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from subquadratic.kernels.native import library

from .builds import SANITIZED, built, in_parts
from .operator_cases import NAMES, Sizes, arguments_of, call, has_nan, operators, other_kinds, other_layouts, tensors_in, wrong_shapes

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))
WIDTHS = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 100])
LENGTHS = st.sampled_from([0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 513, 600])
SIZES = st.builds(
    Sizes, batch=st.integers(0, 3), heads=st.integers(1, 4), length=LENGTHS, keys=LENGTHS, width=WIDTHS, value_width=WIDTHS,
    features=WIDTHS, inner=WIDTHS, masked=st.booleans(), turned=st.booleans(), apart=st.booleans(),
)  # fmt: skip
PHASES = [phase for phase in Phase if not (SANITIZED and phase is Phase.shrink)]  # which takes minutes there
HERE = [name for name in NAMES if name in operators()]
EXAMPLES = 25 if SANITIZED else 10


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("name", HERE)
def test_any_sizes(name: str, threads: int) -> None:
    """Numbers, or an error that says what does not fit."""

    @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, derandomize=not SANITIZED)
    @given(sizes=SIZES, seed=st.integers(0, 2**16))
    def run(sizes: Sizes, seed: int) -> None:
        torch.manual_seed(seed)
        try:
            found = call(name, arguments_of(name, sizes))
        except ValueError as error:
            assert name.removesuffix("_backward") in str(error)
            return
        assert not has_nan(name, found)

    run()


@pytest.mark.parametrize("name", HERE)
def test_any_mistake(name: str) -> None:
    """Two tensors of another shape, dtype, device or layout: an error, or numbers."""

    @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, derandomize=not SANITIZED)
    @given(data=st.data(), seed=st.integers(0, 2**16))
    def run(data: st.DataObject, seed: int) -> None:
        torch.manual_seed(seed)
        sizes = data.draw(SIZES)
        try:
            arguments = arguments_of(name, sizes)
            for _ in range(2):
                _, x, put = data.draw(st.sampled_from(list(tensors_in(arguments))))
                wrong = [*(other for _, other in wrong_shapes(x)), *other_kinds(x), *(other_layouts(x) if x.dim() else ())]
                arguments = put(data.draw(st.sampled_from(wrong)))
            call(name, arguments)
        except (ValueError, RuntimeError):
            return

    run()


@pytest.mark.sanitize
@pytest.mark.parametrize("what", in_parts())
def test_kernels_keep_to_their_memory(what: str, tmp_path: Path) -> None:
    """The tests of the kernels and of the operators above them, in a process whose C library is built with sanitizers."""
    kernels = built(in_parts()[what], sanitized=True)
    ask = [["gcc", f"-print-file-name=lib{name}.so"] for name in ("asan", "ubsan")]
    runtimes = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in ask]
    if not all(os.path.isabs(path) for path in runtimes):
        pytest.skip("gcc has no sanitizers")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes), "SUBQUADRATIC_SANITIZE": str(kernels), "OMP_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={tmp_path}/found",
        "UBSAN_OPTIONS": f"halt_on_error=1:print_stacktrace=1:log_path={tmp_path}/found",
    }  # fmt: skip
    tests = Path(__file__).parents[1]
    files = sorted(path for path in tests.rglob("test_native*.py") if path.name != "test_native_library.py")
    options = ["-q", "-s", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not sanitize", "-k", "not memory_runs_out"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tests.parent)
    reports = [path.read_text()[:6000] for path in tmp_path.iterdir()]
    assert done.returncode == 0 and not reports, "\n".join((done.stdout[-3000:], done.stderr[-3000:], *reports))
