"""The C kernels as a library of this machine: compiled once, kept in the user's cache, loaded into the process.

PyTorch's OpenMP is the one that the kernels run on: they are linked without any, and find that of the process, so that there is one pool of
threads. A compiler whose OpenMP has other names (Clang's, beside a PyTorch made with GCC) is of no use here.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
FLAGS = ("-O3", "-fPIC", "-std=gnu11", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")


class Kernels(ctypes.CDLL):
    """A library of functions that say by a number below zero that they have failed."""

    def __getitem__(self, name: str) -> Any:
        function = super().__getitem__(name)
        function.errcheck = _succeeded
        return function


def _succeeded(status: Any, function: Any, arguments: Any) -> Any:
    if status < 0:
        raise RuntimeError(
            f"the C kernel {function.__name__} is out of memory. Make the batch smaller or the sequence shorter, or set "
            f"SUBQUADRATIC_BACKEND=torch to compute with PyTorch's operators"
        )
    return status


class NoLibrary(RuntimeError):
    """Why there are no C kernels here."""


@functools.cache
def library() -> ctypes.CDLL:
    """The kernels, compiled first where no earlier process has done it (some seconds).

    Raises:
        NoLibrary: where there is no compiler, or what it made cannot be loaded; the text says which.
    """
    return _own()[0]


@functools.cache
def _own() -> tuple[ctypes.CDLL, str]:
    return compiled(_for_this_processor())


@functools.cache
def why_not() -> str | None:
    """None where the kernels can run, else the reason; compiles them."""
    try:
        library()
    except NoLibrary as error:
        return str(error)
    return None


def compiled(target: tuple[str, ...]) -> tuple[ctypes.CDLL, str]:
    """The kernels for a processor that the compiler's flags ``target`` name, and the compiler: the first that can make them.

    Raises:
        NoLibrary: what the first compiler failed at.
    """
    if sys.platform != "linux":
        raise NoLibrary(f"the C kernels are made for Linux, this is {sys.platform}")
    failures = []
    for compiler in _compilers():
        try:
            return _load(_made(compiler, (*FLAGS, *target))), compiler
        except NoLibrary as error:
            failures.append(error)
    raise failures[0] if failures else NoLibrary("no C compiler found: install gcc, or set CC to one")


def made_by() -> str:
    """The compiler of the kernels, by its own words, or why there are none."""
    return why_not() or _run([_own()[1], "--version"]).partition("\n")[0]


def _compilers() -> list[str]:
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc"]
    found = (shutil.which(name) for name in names)
    return list(dict.fromkeys(path for path in found if path is not None))


def _for_this_processor() -> tuple[str, ...]:
    if platform.machine() == "aarch64":
        return ("-mcpu=native",)
    return ("-march=native", "-DMATRIX_UNIT") if _may_use_matrix_unit() else ("-march=native",)


def _may_use_matrix_unit() -> bool:
    """Ask Linux for the registers of AMX, which a process has only if it asks; it does so for all threads, once."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or "amx_bf16" not in _processor().split():
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def _load(path: Path) -> ctypes.CDLL:
    try:
        return Kernels(str(path))
    except OSError as error:
        raise NoLibrary(f"the C kernels were compiled but cannot be loaded: {error}") from error


def _made(compiler: str, flags: tuple[str, ...]) -> Path:
    """The library's file, from the cache or made now."""
    sources = sorted(HERE.glob("*.[ch]"))
    recipe = [compiler, *flags, _run([compiler, "--version"]), _processor(), torch.__version__, *(source.read_text() for source in sources)]
    digest = hashlib.sha256("\0".join(recipe).encode()).hexdigest()
    name = f"kernels-{digest[:20]}.so"
    folder = _cache()
    if not (folder / name).exists():
        _compile(compiler, flags, [source for source in sources if source.suffix == ".c"], folder / name)
    return folder / name


def _compile(compiler: str, flags: tuple[str, ...], sources: list[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(Path(scratch, f"{source.stem}.o")) for source in sources]
        commands = [[compiler, *flags, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)]
        list(pool.map(_run, commands))
        whole = Path(scratch, target.name)
        _run([compiler, "-shared", *objects, "-lm", "-o", str(whole)])  # without -fopenmp: the process has it
        whole.replace(target)  # at once: another process may be looking for it


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibrary(f"the C compiler did not run: {error}") from error
    if done.returncode:
        raise NoLibrary(f"the C compiler failed: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def _processor() -> str:
    """What tells processors apart: a home folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))


@functools.cache
def _cache() -> Path:
    """A folder of the user's own; where there is none that can be written, one for this process."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "subquadratic"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        own = Path(tempfile.mkdtemp(prefix="subquadratic-"))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        return own
    return folder
