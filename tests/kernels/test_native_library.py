"""The library of C kernels: which variant is taken, what is refused, and that whoever has none is told."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from subquadratic.attention.favor.op import causal_favor
from subquadratic.core import backend
from subquadratic.core.backend import takes_native, use_backend
from subquadratic.kernels.native import library, processor
from subquadratic.kernels.native.operators import INT64, POINTER
from subquadratic.kernels.native.processor import TESTED, VARIANTS, Variant

from .builds import CHECKOUT

INSTALLED = library.path_of(library._own()[1]) if library.why_not() is None else Path()
SOURCES = sorted((CHECKOUT / "src" / "subquadratic").rglob("*.c"))  # an installed package has none
needs_kernels = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


@needs_kernels
def test_the_threads_are_those_of_pytorch() -> None:
    """A second OpenMP would have a pool of its own, and both would wait for the same cores."""
    code = (
        "import torch; torch.set_num_threads(2); from subquadratic.attention.favor.op import causal_favor;"
        "x = torch.randn(1, 4, 300, 8); causal_favor(x, x, x, torch.randn(9, 8), backend='native');"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line.rsplit('/', 1)[-1]}, sep='\\n')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len([path for path in found if "openblas" not in path]) <= 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of the one where the package's libraries lie."""
    monkeypatch.setattr(library, "BUILT", tmp_path)
    return tmp_path


def chosen() -> str:
    """The variant that a new process would load."""
    return library._own.__wrapped__()[1].name


def test_without_a_library_there_is_a_reason(folder: Path) -> None:
    with pytest.raises(library.NoLibrary, match=r"no C kernels: for them, install this package again .*, where there is GCC$"):
        chosen()


@needs_kernels
def test_the_best_of_what_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, narrow = (replace(VARIANTS[0], name=name, matrix_unit=False) for name in ("best", "narrow"))
    monkeypatch.setattr(library, "variants_here", lambda: [best, narrow])
    shutil.copy(INSTALLED, folder / "kernels-other.so")
    with pytest.raises(library.NoLibrary, match="has C kernels for other, and this processor needs best"):
        chosen()
    shutil.copy(INSTALLED, library.path_of(narrow))
    assert chosen() == "narrow"
    shutil.copy(INSTALLED, library.path_of(best))
    assert chosen() == "best"


@needs_kernels
@pytest.mark.parametrize("share", [0, 0.0001, 0.02, 0.5, 0.999])
def test_a_library_that_was_cut_short_is_not_loaded(share: float, tmp_path: Path) -> None:
    whole = INSTALLED.read_bytes()
    (tmp_path / "kernels.so").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(library.NoLibrary, match="is damaged: install this package again"):
        library.load(tmp_path / "kernels.so")


def test_what_is_no_library_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "kernels.so").write_text("not a library" * 10)
    with pytest.raises(library.NoLibrary, match="is damaged"):
        library.load(tmp_path / "kernels.so")


@needs_kernels
def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "digest_of_sources", lambda: "another")
    with pytest.raises(library.NoLibrary, match=r"have changed since the kernels were built: .*pip install -e \."):
        library.load(INSTALLED)


@needs_kernels
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("at", POINTER), ("batch", INT64), ("row", INT64), ("head", INT64)], "another struct rows"),  # two in each other's place
        ([("at", POINTER), ("batch", INT64), ("head", INT64)], "another struct rows"),
        ([("at", POINTER), *((name, INT64) for name in ("batch", "head", "row", "more"))], "another struct rows"),
        ([("at", POINTER), ("batch", INT64), ("head", ctypes.c_int32), ("row", INT64)], "another struct rows"),
    ],
)
def test_a_struct_that_differs_is_found_out(fields: list[Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.MIRRORED, "rows", type("Other", (ctypes.Structure,), {"_fields_": fields}))
    with pytest.raises(library.NoLibrary, match=reason):
        library.load(INSTALLED)


@needs_kernels
def test_a_struct_that_is_missing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.MIRRORED, "unheard_of", library.MIRRORED["rows"])
    with pytest.raises(library.NoLibrary, match="is not this package's, or of another version of it, for it has no unheard_of: install"):
        library.load(INSTALLED)


@pytest.mark.parametrize(
    ("system", "machine", "flags", "reason"),
    [
        ("darwin", "arm64", "", "for Linux, this is darwin"),
        ("linux", "riscv64", "", "for aarch64 and x86_64, this is riscv64"),
        ("linux", "x86_64", "sse4_2", "need AVX2"),
    ],
)
def test_a_machine_without_variants(system: str, machine: str, flags: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    like(monkeypatch, system, machine, flags)
    with pytest.raises(library.NoLibrary, match=reason):
        chosen()


def like(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, flags: str) -> None:
    """As on another machine."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "processor_flags", lambda: frozenset(flags.split()))


@pytest.mark.parametrize(
    ("flags", "allowed", "names"),
    [
        (processor.AVX2, False, ["x86-64-v3"]),
        (processor.AVX512, False, ["x86-64-v4", "x86-64-v3"]),
        (processor.AVX512 | {"amx_tile", "amx_bf16"}, True, ["x86-64-v4-amx", "x86-64-v4", "x86-64-v3"]),
        (processor.AVX512 | {"amx_tile", "amx_bf16"}, False, ["x86-64-v4", "x86-64-v3"]),  # the system keeps it to itself
        (processor.AVX512 | {"amx_tile"}, True, ["x86-64-v4", "x86-64-v3"]),
        (processor.AVX512 - {"fma"}, True, []),
    ],
)
def test_variants_of_a_processor(flags: frozenset[str], allowed: bool, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    like(monkeypatch, "linux", "x86_64", " ".join(flags))
    monkeypatch.setattr(processor, "may_use_matrix_unit", lambda: allowed)
    assert [one.name for one in processor.variants_here()] == names
    assert [one.name for one in processor.asked_for("this")] == names[:1]


def test_what_a_build_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    like(monkeypatch, "linux", "aarch64", "asimd")
    assert [one.name for one in processor.asked_for("all")] == ["aarch64"]
    assert [one.name for one in processor.asked_for("x86-64-v3,x86-64-v2")] == ["x86-64-v3", "x86-64-v2"]
    with pytest.raises(ValueError, match=r"names among x86-64-v4-amx, .*, got x86-64"):
        processor.asked_for("x86-64")


def test_pytorch_computes_where_the_kernels_cannot_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "why_not", lambda: "there are none")
    backend._warn_of.cache_clear()
    x = torch.randn(1, 1, 5, 4)
    with pytest.warns(RuntimeWarning, match="PyTorch's operators compute, .* slower: there are none"):
        causal_favor(x, x, x, torch.randn(6, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causal_favor(x, x, x, torch.randn(6, 4))
    with pytest.raises(ValueError, match="backend='native' cannot run: there are none"):
        causal_favor(x, x, x, torch.randn(6, 4), backend="native")


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "why_not", lambda: None)
    values = torch.zeros(1)
    assert takes_native(None, values)
    assert takes_native("native", values)
    assert not takes_native("torch", values)
    assert not takes_native("auto", values.double())
    with use_backend("torch"):
        assert not takes_native(None, values)
    with pytest.raises(ValueError, match="float32 on a CPU"):
        takes_native("native", values.double())
    with pytest.raises(ValueError, match="backend must be one of"):
        takes_native("c", values)


def test_the_environment_may_choose() -> None:
    code = "import subquadratic.core.backend as b; print(b.chosen_backend())"
    environment = {"SUBQUADRATIC_BACKEND": "torch", "PATH": "/usr/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "torch"


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, id=variant.name, marks=[] if variant.name == "x86-64-v4" else pytest.mark.slow)
        for variant in (*VARIANTS, *TESTED)
    ],
)
def test_the_compiler_has_nothing_to_say(variant: Variant) -> None:
    gcc = shutil.which("gcc")
    if gcc is None or platform.machine() != variant.machine:
        pytest.skip("no gcc for it here")
    assert SOURCES
    headers = f"-I{CHECKOUT / 'src' / 'subquadratic' / 'kernels' / 'native'}"
    options = ["-fsyntax-only", "-std=gnu11", "-fopenmp", headers, *variant.options, "-DBUILT_BY=\"\"", "-DBUILT_FROM=\"\""]
    quiet = ["-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter"]
    done = subprocess.run([gcc, *options, *quiet, *map(str, SOURCES)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(("which", "count"), [("none", 0), ("x86-64-v3,x86-64-v4", 2), ("aarch64", 1)])
def test_a_build_makes_what_it_is_asked_for(which: str, count: int) -> None:
    assert [one.name for one in processor.asked_for(which)] == which.split(",")[:count]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize(("which", "said"), [("bogus", "SUBQUADRATIC_KERNELS must be 'none', 'this', 'all'"), ("none", "as asked for")])
def test_the_environment_names_the_kernels_of_a_build(which: str, said: str, tmp_path: Path) -> None:
    command = ["cmake", "-S", str(CHECKOUT), "-B", str(tmp_path), f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run(command, env={**os.environ, "SUBQUADRATIC_KERNELS": which}, capture_output=True, text=True, timeout=120)
    assert (done.returncode != 0) == (which == "bogus")
    assert said in " ".join((done.stdout + done.stderr).split())
