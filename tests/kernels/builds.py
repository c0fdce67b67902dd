"""The C kernels in variants that the installed package lacks, and with sanitizers: built by CMake into the checkout's `build`, once."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from subquadratic.kernels.native import library
from subquadratic.kernels.native.processor import TESTED, VARIANTS, Variant

CHECKOUT = Path(__file__).parents[2]
SANITIZED = os.environ.get("SUBQUADRATIC_SANITIZE")  # a library with sanitizers, which test_native_fuzz.py builds, and runs tests in
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1"
BY_NAME = {one.name: one for one in (*VARIANTS, *TESTED)}


def in_parts() -> dict[str, Variant]:
    """The variants that differ in how the kernels are written, by what tells them apart; on a machine with a matrix unit its own stands for
    the emulated one."""
    unit = "x86-64-v4-amx" if BY_NAME["x86-64-v4-amx"].runs_here() else "x86-64-v4-emulated"
    names = {"matrix unit": unit, "16 lanes": "x86-64-v4", "8 lanes": "x86-64-v3", "4 lanes": "x86-64-v2"}
    return {what: BY_NAME[name] for what, name in names.items()}


def built(variant: Variant, *, sanitized: bool = False) -> Path:
    """The library of a variant: the one that came with the package, or one that is built now, by whichever process comes first.

    Skips the test where the processor cannot run it, or where it cannot be built.
    """
    if not variant.runs_here():
        pytest.skip(f"this processor cannot run {variant.name}")
    if not sanitized and library.path_of(variant).exists():
        return library.path_of(variant)
    return _made(variant, sanitized)


@functools.cache
def _made(variant: Variant, sanitized: bool) -> Path:
    if shutil.which("cmake") is None or shutil.which("gcc") is None:
        pytest.skip("no cmake or no gcc")
    folder = CHECKOUT / "build" / (f"{variant.name}-sanitized" if sanitized else variant.name)
    folder.mkdir(parents=True, exist_ok=True)
    more = ["-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_C_FLAGS={SANITIZERS}"] if sanitized else ["-DCMAKE_BUILD_TYPE=Release"]
    with FileLock(folder / "lock"):
        which = (f"-DSUBQUADRATIC_KERNELS={variant.name}", f"-DPython_EXECUTABLE={sys.executable}")
        _run("-G", "Ninja", "-S", str(CHECKOUT), "-B", str(folder), *which, *more)
        _run("--build", str(folder))
    return folder / f"kernels-{variant.name}.so"


def _run(*arguments: str) -> None:
    done = subprocess.run(["cmake", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
