"""The house rules: imports go one way, importing is light, files are short, nothing depends on a machine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "subquadratic"
LEVELS = [
    {"kernels"}, {"core"}, {"replay", "layers"}, {"attention", "generation"}, {"models"}, {"heads"}, {"compat", "costs", "data", "export"},
    {"evaluation"}, {"hf"}, {"training"}, {"benchmark"}, {"comparison", "reproduction"}, {"cli"},
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
KNOWS = {mechanism: {"softmax"} for mechanism in ("favor", "latent", "low_rank")}  # of the others, each mechanism: nothing else
MODULES = sorted(PACKAGE.rglob("*.py"))


NAMES = {".".join(("subquadratic", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path for path in MODULES}


def imported(name: str) -> set[str]:
    """The modules of the package that one imports: also inside functions, for type checkers alone, and by `import_module` of a name that
    stands there."""
    path = NAMES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found |= {whole if (whole := f"{target}.{alias.name}") in NAMES else target for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and isinstance(node.args[0], ast.Constant):
            found.add(f"{'.'.join(package)}{node.args[0].value}" if node.args[0].value.startswith(".") else node.args[0].value)
    return (found & set(NAMES)) - {name}


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") > 1])
def test_imports_go_one_way(name: str) -> None:
    room = name.split(".")[1]
    for other in imported(name):
        there = other.split(".")[1:2]
        if there and there[0] in LEVEL and there[0] != room:
            assert LEVEL[there[0]] < LEVEL[room], f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("subquadratic.attention.")])
def test_mechanisms_know_exact_attention_at_most(name: str) -> None:
    mechanism = name.split(".")[2]
    for other in imported(name):
        if other.startswith("subquadratic.attention.") and (there := other.split(".")[2]) != mechanism:
            assert there in KNOWS.get(mechanism, set()), f"{name} imports {other}"


def built_by(name: str) -> set[str]:
    """The model that a configuration builds. The two name each other by design: a model is made of its configuration, and is what that
    configuration builds; `build` imports it when it is called, so that options are checked without PyTorch."""
    parent, dot, own = name.rpartition(".configs.")
    return {f"{parent}.{own}", f"{parent}.{own}.backbone"} if dot and parent == "subquadratic.models" else set()


def test_files_import_in_no_circle() -> None:
    """A package's `__init__` is left out: importing a file of it runs it anyway, and it names its files."""
    files = {name: imported(name) - built_by(name) for name, path in NAMES.items() if path.name != "__init__.py"}
    while leaves := {name for name, others in files.items() if not others & set(files)}:
        files = {name: others for name, others in files.items() if name not in leaves}
    assert not files, {name: sorted(others & set(files)) for name, others in files.items()}


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
    assert len(text.splitlines()) <= 330
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a file says in its first line what it holds"


def test_every_public_name_is_there_and_documented() -> None:
    import subquadratic as sq

    for name in sq.__all__:
        value = getattr(sq, name)
        assert name == "__version__" or value.__doc__, name
