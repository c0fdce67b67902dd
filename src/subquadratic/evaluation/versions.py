"""Which versions of packages a result was made with."""

from importlib.metadata import PackageNotFoundError, version

import torch


def versions(*names: str) -> dict[str, str]:
    """The versions of those packages that are installed.

    PyTorch's is ``torch.__version__``, which tells its builds apart: 2.13.0+cpu, 2.13.0+cu130. Package metadata says 2.13.0 for both where
    the wheel comes from a package index.
    """
    return {name: found for name in names if (found := _version(name)) is not None}


def _version(name: str) -> str | None:
    if name == "torch":
        return str(torch.__version__)
    try:
        return version(name)
    except PackageNotFoundError:
        return None
