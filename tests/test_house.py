"""The house rules: imports go one way, importing is light, files are short, nothing depends on a machine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "subquadratic"
LEVELS = [
    {"kernels"}, {"ops"}, {"layers"}, {"attention"}, {"generation"}, {"models"}, {"compat"}, {"data"}, {"evaluation"}, {"training"},
    {"benchmark"}, {"cli"},
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First parts, below the package, of everything a file imports from the package, also inside functions."""
    found = set()
    here = ("subquadratic", *path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            target = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*target, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "subquadratic" and len(name) > 1}
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != PACKAGE], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    for other in imported(path) & set(LEVEL):
        allowed = other == room or LEVEL[other] < LEVEL[room]
        assert allowed, f"{room} imports {other}"


def test_importing_the_package_brings_torch_at_most() -> None:
    code = (
        "import subquadratic as sq, sys; sq.Performer; sq.LanguageModel; sq.attention.FavorAttention;"
        "heavy = {'transformers', 'triton', 'matplotlib', 'accelerate', 'safetensors', 'jsonargparse', 'einops'} & set(sys.modules);"
        "print(*sorted(heavy))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a file says in its first line what it holds"


def test_every_public_name_is_there_and_documented() -> None:
    import subquadratic as sq

    for name in sq.__all__:
        value = getattr(sq, name)
        assert name == "__version__" or value.__doc__, name
