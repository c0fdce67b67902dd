"""What is declared to pip: bounds that the pins keep to, extras that something uses, and an sdist with all that its tests read."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))
EXTRAS = PROJECT["project"]["optional-dependencies"]
BOUNDS = [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for line in lines]
IMPORTED = {
    "pyyaml": "yaml", "types-pyyaml": "yaml", "mkdocs-material": "mkdocs", "mkdocstrings": "mkdocs", "mkdocstrings-python": "mkdocstrings",
    "pytest-xdist": "xdist",
}  # fmt: skip


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_pins_keep_to_the_bounds(bound: Requirement) -> None:
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    pinned = pins.get(canonicalize_name(bound.name))
    assert pinned is None or bound.specifier.contains(pinned)


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev"}))
def test_something_uses_what_an_extra_brings(extra: str) -> None:
    files = [path for folder in ("src", "docs", "tests") for path in (ROOT / folder).rglob("*.py")] + [ROOT / "mkdocs.yml"]
    text = "\n".join(path.read_text() for path in files if path.name != Path(__file__).name)
    for line in EXTRAS[extra]:
        name = canonicalize_name(Requirement(line).name)
        module = IMPORTED.get(name, name).replace("-", "[-_]")
        use = rf"(?:from|import) {module}\b" if extra in ("train", "data") else rf"\b{module}\b"  # others are asked for by name
        assert re.search(use, text), name


def test_the_sdist_has_what_its_tests_read() -> None:
    left_out = {pattern.strip("/") for pattern in PROJECT["tool"]["scikit-build"]["sdist"]["exclude"]}  # of what git keeps
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py")) + (ROOT / "docs" / "_hooks.py").read_text()
    read = set(re.findall(r'(?:ROOT|parent\.parent|parents\[\d\]) / "([^"/]+)', code))
    assert len(read) > 4
    assert not read & left_out


def test_nothing_that_python_reads_is_left_out_of_what_is_installed() -> None:
    """A pattern without a slash in front also means every folder of that name inside the package."""
    settings = PROJECT["tool"]["scikit-build"]
    patterns = GitIgnoreSpec.from_lines([*settings["sdist"]["exclude"], *settings["wheel"]["exclude"]])
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src" / "subquadratic").rglob("*") if path.is_file()]
    read = [file for file in files if not file.endswith((".c", ".h", ".pyc"))]
    assert len(read) > 400
    assert not [file for file in read if patterns.match_file(file)]


def test_one_oldest_python_is_named_and_every_one_was_tried() -> None:
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["project"]["classifiers"]), flags=re.M)
    oldest = pythons[0]
    assert PROJECT["project"]["requires-python"] == f">={oldest}"
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    page = (ROOT / "docs" / "versions.md").read_text()
    tried = re.findall(r"^\| (?:oldest|newest) \| (3\.\d+)\.\d+ \|", page, flags=re.M)
    assert set(tried) == set(pythons)
