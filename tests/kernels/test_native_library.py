"""Compiling the C kernels: once, in the user's cache, and a reason where it cannot be done."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from subquadratic.kernels.native import library
from subquadratic.ops import backend
from subquadratic.ops.backend import takes_native, use_backend
from subquadratic.ops.favor import causal_favor

needs_a_compiler = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(library, "_cache", lambda: tmp_path)
    return tmp_path


@needs_a_compiler
def test_one_file_is_made_and_found_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.compiled(("-march=native",) if "avx2" in library._processor() else ())
    (made,) = cache.iterdir()  # and no scratch is left
    monkeypatch.setattr(library, "_compile", None)  # would be called for another
    library.compiled(("-march=native",) if "avx2" in library._processor() else ())
    assert list(cache.iterdir()) == [made]


@needs_a_compiler
def test_another_processor_gets_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.compiled(())
    monkeypatch.setattr(library, "_processor", lambda: "another")
    library.compiled(())
    assert len(list(cache.iterdir())) == 2


@needs_a_compiler
def test_the_threads_are_those_of_pytorch() -> None:
    """A second OpenMP would have a pool of its own, and both would wait for the same cores."""
    code = (
        "import torch; torch.set_num_threads(2); from subquadratic.ops.favor import causal_favor;"
        "x = torch.randn(1, 4, 300, 8); causal_favor(x, x, x, torch.randn(9, 8), backend='native');"
        "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line.rsplit('/', 1)[-1]}, sep='\\n')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len([path for path in found if "openblas" not in path]) <= 1


@pytest.mark.parametrize(
    ("compiler", "reason"), [(None, "no C compiler found"), (sys.executable, "the C compiler failed"), ("/bin/true", "cannot be loaded")]
)
def test_without_a_compiler_pytorch_computes(compiler: str | None, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.shutil, "which", lambda name: compiler)
    if compiler == "/bin/true":  # makes nothing, and says that all is well
        monkeypatch.setattr(library, "_run", lambda command: "")
        monkeypatch.setattr(library, "_compile", lambda compiler, flags, sources, target: target.write_text("no library"))
    with pytest.raises(library.NoLibrary, match=reason):
        library.compiled(())
    monkeypatch.setattr(backend, "why_not", lambda: reason)
    x = torch.randn(1, 1, 5, 4)
    causal_favor(x, x, x, torch.randn(6, 4))
    with pytest.raises(ValueError, match=f"backend='native' cannot run: {reason}"):
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
    code = "import subquadratic.ops.backend as b; print(b.chosen_backend())"
    environment = {"SUBQUADRATIC_BACKEND": "torch", "PATH": "/usr/bin"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "torch"


@needs_a_compiler
@pytest.mark.parametrize("target", ["its own", "-march=native", "-march=x86-64-v3", "-march=x86-64-v2"])
def test_the_compiler_has_nothing_to_say(target: str, tmp_path: Path) -> None:
    if "x86" in target and "avx2" not in library._processor():
        pytest.skip("made for other processors than this one")
    flags = library._for_this_processor() if target == "its own" else (target,)
    compiler = library.shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    for source in sorted(library.HERE.glob("*.c")):
        command = [compiler, *library.FLAGS, *flags, "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter"]
        done = subprocess.run([*command, "-c", str(source), "-o", str(tmp_path / "made.o")], capture_output=True, text=True, check=True)
        assert done.stderr == ""


def test_a_matrix_unit_is_used_only_where_there_is_one_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_processor", lambda: "flags : sse2 avx2")
    assert not library._may_use_matrix_unit() and "-DMATRIX_UNIT" not in library._for_this_processor()
    monkeypatch.setattr(library, "_may_use_matrix_unit", lambda: True)
    assert ("-DMATRIX_UNIT" in library._for_this_processor()) == (library.platform.machine() != "aarch64")
