"""Packages whose names are loaded when they are first used (PEP 562), so that reading options does not wait for PyTorch."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(package: str, held: dict[str, Any], homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its name.
        held: its ``globals()``.
        homes: each public name, and the module below the package that has it, or that is itself what is named.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(f".{homes[name]}", package)
        held[name] = home if homes[name] == name else getattr(home, name)
        return held[name]

    return load, lambda: sorted({*held, *homes})
