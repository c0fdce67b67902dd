"""Which cases of the laws' matrix are slow: by default a law is tried on every model as it is, and on half of the models with options.

Which half differs from law to law, so that every option meets several laws; `pytest -m slow tests/laws` runs the rest.
"""

import zlib
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None)
        if case is None or HERE not in item.path.parents or "config" not in case.params or "=" not in case.id:
            continue
        if zlib.crc32(f"{item.path.name} {item.name}".encode()) % 2:
            item.add_marker(pytest.mark.slow)
