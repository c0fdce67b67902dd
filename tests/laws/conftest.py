"""Which cases of the laws' matrix are slow: by default a law is tried on every model as it is, and on half of the models with options.

Which half differs from law to law; one more case is kept for each option that a law's half would not meet, so that every law meets every
option. `pytest -m slow tests/laws` runs the rest.
"""

import re
import zlib
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def options(item: pytest.Item) -> set[str]:
    """Names of the options in a case's id."""
    return set(re.findall(r"(\w+)=", item.name.partition("[")[2]))


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    met: dict[str, set[str]] = defaultdict(set)  # by law
    rest = []
    for item in items:
        case = getattr(item, "callspec", None)
        if case is None or HERE not in item.path.parents or "config" not in case.params or "=" not in case.id:
            continue
        if item.get_closest_marker("slow") or zlib.crc32(f"{item.path.name} {item.name}".encode()) % 2:
            rest.append(item)
        else:
            met[item.nodeid.partition("[")[0]] |= options(item)
    for item in sorted(rest, key=lambda item: len(options(item)), reverse=True):
        law = met[item.nodeid.partition("[")[0]]
        if item.get_closest_marker("slow") or options(item) <= law:
            item.add_marker(pytest.mark.slow)
        else:
            law |= options(item)
