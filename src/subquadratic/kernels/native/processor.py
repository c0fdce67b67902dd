"""The variants in which the C kernels are built, and which of them this processor, and the system on it, can run.

Read by the package when it looks for a library, and by CMakeLists.txt, which runs this file, when it builds one: nothing but the standard
library is imported here.
"""

import ctypes
import functools
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The kernels for one kind of processor."""

    name: str
    machine: str
    """As ``platform.machine()`` says it."""
    needs: frozenset[str]
    """Flags in /proc/cpuinfo."""
    options: tuple[str, ...]
    """Of GCC."""
    matrix_unit: bool = False
    """Whether a process has to ask the system for the registers first."""

    def runs_here(self) -> bool:
        """Whether this processor has what it takes, and this process may use it."""
        here = sys.platform == "linux" and platform.machine() == self.machine and self.needs <= processor_flags()
        return here and (not self.matrix_unit or may_use_matrix_unit())


# Best first.
VARIANTS = (
    Variant(
        name="x86-64-v4-amx",
        machine="x86_64",
        needs=AVX512 | {"amx_tile", "amx_bf16"},
        options=("-march=x86-64-v4", "-mamx-tile", "-mamx-bf16", "-DMATRIX_UNIT"),
        matrix_unit=True,
    ),
    Variant(name="x86-64-v4", machine="x86_64", needs=AVX512, options=("-march=x86-64-v4",)),
    Variant(name="x86-64-v3", machine="x86_64", needs=AVX2, options=("-march=x86-64-v3",)),
    Variant(name="aarch64", machine="aarch64", needs=frozenset({"asimd"}), options=("-march=armv8-a",)),
)
# For tests alone: vectors of four lanes, as on aarch64, and a matrix unit made of vectors.
TESTED = (
    Variant(name="x86-64-v2", machine="x86_64", needs=frozenset({"sse4_2"}), options=("-march=x86-64-v2",)),
    Variant(
        name="x86-64-v4-emulated", machine="x86_64", needs=AVX512, options=("-march=x86-64-v4", "-DMATRIX_UNIT", "-DEMULATED_TILES")
    ),
)


def variants_here() -> list[Variant]:
    """Those that can run here, the best first."""
    return [variant for variant in VARIANTS if variant.runs_here()]


@functools.cache
def processor_flags() -> frozenset[str]:
    """What the processor has, in Linux's words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split())


@functools.cache
def may_use_matrix_unit() -> bool:
    """Ask Linux for the registers of AMX, which a process has only if it asks; it does so for all threads, once."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def asked_for(which: str) -> list[Variant]:
    """What a build is to make: ``none``, ``this`` machine's best, ``all`` of this machine's kind, or names separated by commas.

    Raises:
        ValueError: for an unknown name.
    """
    if which == "none":
        return []
    if which == "this":
        return variants_here()[:1]
    if which == "all":
        return [variant for variant in VARIANTS if variant.machine == platform.machine()]
    known = {variant.name: variant for variant in (*VARIANTS, *TESTED)}
    names = which.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"SUBQUADRATIC_KERNELS must be 'none', 'this', 'all' or names among {', '.join(known)}, got {', '.join(unknown)}")
    return [known[name] for name in names]


if __name__ == "__main__":
    # A line for each variant, which CMake splits at spaces: the name, and the compiler's options.
    try:
        chosen = asked_for(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    for found in chosen:
        print(found.name, *found.options)
