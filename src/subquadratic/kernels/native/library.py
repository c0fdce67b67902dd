"""The C kernels: the library that was built with the package for this kind of processor, chosen, checked and loaded.

CMakeLists.txt builds them when the package is installed from source, or when a wheel is made; nothing is ever compiled here. The libraries
are linked without OpenMP, and find that of PyTorch in the process, so that there is one pool of threads.
"""

import ctypes
import functools
import hashlib
import itertools
import logging
import platform
import struct
import sys
from pathlib import Path
from typing import Any

import torch  # noqa: F401  whose OpenMP the kernels find

from .processor import VARIANTS, Variant, variants_here

BUILT = Path(__file__).parent / "built"
PACKAGE = Path(__file__).parents[2]
REINSTALL = "install this package again (pip install --force-reinstall --no-deps subquadratic)"
AGAIN = f"{REINSTALL}, where there is GCC"
ELF_HEADER = struct.Struct("<4s 36x Q 10x H H H")  # its mark; where the table of sections, which lies at the end, begins; its size

MIRRORED: dict[str, type[ctypes.Structure]] = {}  # by the name of the struct's table, see layout.h
log = logging.getLogger("subquadratic")


class Arguments(ctypes.Structure):
    """A struct of the C kernels. ``layout``: the name of the table that says where its fields lie, without ``_layout``."""

    def __init_subclass__(cls, *, layout: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        MIRRORED[layout] = cls


class Kernels(ctypes.CDLL):
    """A library of functions that say by a number below zero that they have failed."""

    compared = 0  # of the structs in MIRRORED, how many are known to be the library's

    def compare(self) -> None:
        """Look at the structs that nobody has looked at yet: a mechanism's come with its module.

        Raises:
            NoLibrary: if one is not what the library means by it.
        """
        for name, mirror in itertools.islice(MIRRORED.items(), self.compared, None):
            _check_layout(self, name, mirror)
        self.compared = len(MIRRORED)

    def __getitem__(self, name: str) -> Any:
        function = super().__getitem__(name)
        function.errcheck = _succeeded
        return function


def call(kernel: str, arguments: Arguments) -> None:
    """Call a function of the library that takes a struct."""
    found = library()
    if found.compared < len(MIRRORED):
        found.compare()
    getattr(found, kernel)(ctypes.byref(arguments))


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
def library() -> Kernels:
    """The kernels.

    Raises:
        NoLibrary: where none were built for this processor, or what was built cannot be loaded; the text says which.
    """
    return _own()[0]


@functools.cache
def why_not() -> str | None:
    """None where the kernels can run, else the reason."""
    try:
        library()
    except NoLibrary as error:
        return str(error)
    return None


def variant() -> str | None:
    """Which variant of the kernels computes here; None: none does."""
    return _own()[1].name if why_not() is None else None


def better_variant() -> str | None:
    """The variant that this processor could run and this installation lacks; None: it has the best, or none."""
    best = variants_here()[0].name if why_not() is None else None
    return best if best != variant() else None


@functools.cache
def has_matrix_unit() -> bool:
    """Whether kernels compute here, and on a matrix unit (AMX)."""
    return why_not() is None and bool(library().has_matrix_unit())


def made_by() -> str:
    """The compiler of the kernels and their variant, or why there are none."""
    return why_not() or _text(library(), "built_by")


@functools.cache
def _own() -> tuple[Kernels, Variant]:
    fitting = variants_here()
    if not fitting:
        raise NoLibrary(_no_variant())
    for one in fitting:
        if path_of(one).exists():
            found = load(path_of(one))
            log.info("C kernels for %s compute in float32 on this CPU", one.name)
            return found, one
    built = sorted(path.stem.removeprefix("kernels-") for path in BUILT.glob("kernels-*.so"))
    if built:
        raise NoLibrary(f"this installation has C kernels for {', '.join(built)}, and this processor needs {fitting[0].name}: {AGAIN}")
    raise NoLibrary(f"this installation has no C kernels: for them, {AGAIN}")


def _no_variant() -> str:
    if sys.platform != "linux":
        return f"the C kernels are for Linux, this is {sys.platform}"
    kinds = sorted({one.machine for one in VARIANTS})
    if platform.machine() not in kinds:
        return f"the C kernels are for {' and '.join(kinds)}, this is {platform.machine()}"
    return "the C kernels need AVX2, which this processor does not have"


def path_of(one: Variant) -> Path:
    """Where the library of a variant lies, if it was built."""
    return BUILT / f"kernels-{one.name}.so"


def load(path: Path) -> Kernels:
    """A library, once it is known to be whole, of these sources, and to mean by its structs what is meant here.

    Raises:
        NoLibrary: if it is not.
    """
    _check_whole(path)
    try:
        found = Kernels(str(path))
    except OSError as error:
        raise NoLibrary(f"the C kernels cannot be loaded: {error}") from error
    _check_sources(found)
    found.compare()
    return found


def _check_whole(path: Path) -> None:
    """A file that was cut short would end the process when a page is read that is not there."""
    try:
        with path.open("rb") as file:
            head, size = file.read(ELF_HEADER.size), path.stat().st_size
    except OSError as error:
        raise NoLibrary(f"the C kernels cannot be read: {error}") from error
    if len(head) == ELF_HEADER.size:
        mark, sections, each, count, _ = ELF_HEADER.unpack(head)
        if mark == b"\x7fELF" and sections and sections + each * count <= size:
            return
    raise NoLibrary(f"{path} is damaged: {REINSTALL}")


def _check_sources(found: ctypes.CDLL) -> None:
    """Where the sources lie beside the package, in a checkout, they may have changed since the library was built."""
    digest = digest_of_sources()
    if digest is not None and digest != _text(found, "built_from"):
        raise NoLibrary(
            "the C sources have changed since the kernels were built: build them again (pip install -e . in the checkout, or, where CMake "
            "is installed, cmake -S . -B build && cmake --build build && cmake --install build)"
        )


@functools.cache
def digest_of_sources() -> str | None:
    """Of the C sources, as CMakeLists.txt makes it; None: there are none."""
    sources = sorted(source.relative_to(PACKAGE).as_posix() for source in PACKAGE.rglob("*.[ch]"))
    lines = (f"{source} {hashlib.sha256((PACKAGE / source).read_bytes()).hexdigest()}\n" for source in sources)
    return hashlib.sha256("".join(lines).encode()).hexdigest() if sources else None


class _FieldLayout(ctypes.Structure):
    """``field_layout`` of layout.h."""

    _fields_ = [("name", ctypes.c_char_p), ("at", ctypes.c_int64), ("bytes", ctypes.c_int64)]


def _check_layout(found: ctypes.CDLL, name: str, mirror: Any) -> None:
    expected = [("", 0, ctypes.sizeof(mirror))]
    for field, *_ in mirror._fields_:
        place = getattr(mirror, field)
        expected.append((field, place.offset, place.size))
    try:
        table = (_FieldLayout * (len(expected) + 1)).in_dll(found, f"{name}_layout")
    except ValueError as error:
        raise NoLibrary(_foreign(found, name)) from error
    entries = itertools.takewhile(lambda entry: entry.name is not None, table)
    if [(entry.name.decode(), entry.at, entry.bytes) for entry in entries] != expected:
        raise NoLibrary(f"{found._name} is of another version of this package, with another struct {name}: {REINSTALL}")


def _foreign(found: ctypes.CDLL, name: str) -> str:
    return f"{found._name} is not this package's, or of another version of it, for it has no {name}: {REINSTALL}"


def _text(found: ctypes.CDLL, name: str) -> str:
    try:
        return ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(found, name))).decode()
    except ValueError as error:
        raise NoLibrary(_foreign(found, name)) from error
