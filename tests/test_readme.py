"""Every Python snippet of the README runs, and its commands are the ones that exist."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet{i}" for i in range(len(SNIPPETS))])
def test_snippets_run(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})


def test_there_is_a_snippet_for_every_model() -> None:
    for name in ("Performer", "Linformer", "Fastformer", "FeedbackTransformer", "PerceiverAR", "Transformer"):
        assert any(f"sq.{name}Config(" in snippet for snippet in SNIPPETS), name


def test_commands_exist() -> None:
    from subquadratic.cli.main import VERBS

    used = set(re.findall(r"^subq (\w+)", "\n".join(re.findall(r"```console\n(.*?)```", README, flags=re.S)), flags=re.M))
    assert used and used <= set(VERBS)
