"""The documentation is true: snippets run and print what they say, links lead somewhere, every page is in the navigation, and every verb,
flag and field that it names exists."""

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import subquadratic as sq
from subquadratic.cli.main import VERBS, main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.S | re.M)
SNIPPETS = [
    pytest.param(text, id=f"{page.relative_to(DOCS)}-{index}")
    for page in PAGES
    for index, text in enumerate(text for language, text in FENCE.findall(page.read_text()) if language == "python")
]
MEMBERS = {"convert_checkpoint", "load"}  # that a page names as members of their package
CONFIGS = {
    "performer": sq.PerformerConfig, "linformer": sq.LinformerConfig, "fastformer": sq.FastformerConfig,
    "feedback_transformer": sq.FeedbackTransformerConfig, "gated_linear": sq.GatedLinearConfig, "perceiver_ar": sq.PerceiverARConfig,
    "transformer": sq.TransformerConfig,
}  # fmt: skip


def ids(page: Path) -> str:
    return str(page.relative_to(DOCS))


def promised(snippet: str) -> list[str]:
    """What a snippet's comments say that it prints: behind ``print(...)``, or line after line at its end."""
    behind = re.findall(r"^ *print\(.*\)  # (.*)$", snippet, flags=re.M)
    below = [line.removeprefix("# ") for line in snippet.rstrip().splitlines()[::-1]]
    ending = next((index for index, line in enumerate(snippet.rstrip().splitlines()[::-1]) if not line.startswith("# ")), 0)
    return behind or below[:ending][::-1]


@pytest.fixture
def as_before() -> Iterator[None]:
    """A page may set threads and environment; nothing else may hear of it."""
    threads, environment = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run_and_print_what_they_say(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "snippet", "exec"), {"__name__": "snippet"})
    said = promised(snippet)
    if said:
        assert printed.getvalue().splitlines() == said


def navigation(entries: Any) -> list[str]:
    """All pages of mkdocs.yml's nav."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in navigation(value)]


def test_every_page_is_in_the_navigation() -> None:
    named = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(named) == len(set(named))
    assert {str(page.relative_to(DOCS)) for page in PAGES} <= set(named)
    assert set(named) - {"defaults.md"} <= {str(page.relative_to(DOCS)) for page in PAGES}


def anchors(page: Path) -> set[str]:
    """The ids that the headings of a page get."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link  # in the repository; docs/_hooks.py sees to images on the site
        assert target.is_relative_to(DOCS) or target.suffix == ".png", f"{link} leads out of the site"
        if anchor:
            assert anchor in anchors(target), link


def commands(page: Path) -> list[list[str]]:
    """The words of every `subq` call in the console snippets, without pipes and redirections."""
    found = []
    for language, text in FENCE.findall(page.read_text()):
        for line in text.replace("\\\n", " ").splitlines() if language == "console" else ():
            for call in re.split(r"\|\||&&|[|;]", line.split("  #")[0]):
                words = shlex.split(call)
                if "subq" in words:
                    found.append(words[words.index("subq") + 1 :])
    return found


CALLS = [pytest.param(call, id=f"{ids(page)}-{index}") for page in PAGES for index, call in enumerate(commands(page))]


@pytest.mark.parametrize("call", CALLS)
def test_commands_and_their_flags_exist(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if not call or call[0].startswith("-"):
        return
    assert call[0] in VERBS
    verb = call[:2] if call[0] == "tokenizer" else call[:1]
    assert main([*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in call:
        flag = re.split(r"[=.]", word)[0]
        assert not word.startswith("--") or re.search(rf"(?<![\w-]){flag}(?![\w-])", shown), f"{' '.join(verb)} has no {flag}"


def test_the_command_line_page_has_a_section_for_every_verb_and_names_every_flag_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "command_line.md").read_text()
    assert set(VERBS) <= set(re.findall(r"^## (\w+)$", text, flags=re.M))
    main(["train", "--help"])
    flags = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, flags=re.M)) - {"--print_config"}
    section = text.partition("## train")[2].partition("\n## ")[0]
    assert flags <= set(re.findall(r"--\w+", section))


@pytest.mark.parametrize("model", CONFIGS)
def test_the_options_tables_name_every_field(model: str) -> None:
    own = {field.name for field in dataclasses.fields(CONFIGS[model])} - {field.name for field in dataclasses.fields(sq.BackboneConfig)}
    section = (DOCS / "models" / f"{model}.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, flags=re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert own <= named
    assert named <= {field.name for field in dataclasses.fields(CONFIGS[model])}


@pytest.mark.parametrize("model", CONFIGS)
def test_the_options_tables_name_the_right_defaults(model: str) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(CONFIGS[model])}
    section = (DOCS / "models" / f"{model}.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    for names, values in re.findall(r"^\| (`.*?`) \| (`.*?`)[^|]* \|", section, flags=re.M):
        for name, value in zip(re.findall(r"`(\w+)`", names), re.findall(r"`([^`]+)`", values), strict=False):
            assert value == repr(defaults[name]).replace("'", '"'), name


@pytest.mark.parametrize("package", ["subquadratic", "subquadratic.attention", "subquadratic.compat"])
def test_the_reference_holds_every_public_name(package: str) -> None:
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    named = {part for path in re.findall(r"^::: (subquadratic[\w.]*)$", text, flags=re.M) for part in path.split(".")}
    public = set(importlib.import_module(package).__all__)
    assert public - {"__version__", "load_converted"} <= named | MEMBERS


TWINS = {
    "performer_pytorch": "PerformerLM", "linformer": "LinformerLM", "fast_transformer_pytorch": "FastTransformer",
    "feedback_transformer_pytorch": "FeedbackTransformer", "perceiver_ar_pytorch": "PerceiverAR",
}  # fmt: skip


@pytest.mark.parametrize("package", TWINS)
def test_the_keyword_tables_name_every_published_keyword(package: str) -> None:
    title = package.replace("_", "-")
    section = (DOCS / "migrating.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    left = " ".join(re.findall(r"^\| (`[^|]*) \|", section, flags=re.M))
    twin = getattr(getattr(sq.compat, package), TWINS[package])
    assert set(inspect.signature(twin).parameters) - {"dim", "depth", "heads"} <= set(re.findall(r"\w+", left))
    right = " ".join(re.findall(r"^\| `[^|]* \| ([^|]*) \|", section, flags=re.M))
    known = {field.name for config in CONFIGS.values() for field in dataclasses.fields(config)}
    known |= set(inspect.signature(sq.LanguageModel).parameters) | set(inspect.signature(twin).parameters) | {"extend"}
    assert set(re.findall(r"`([a-z_]+)[=`(]", right)) - {"forward"} <= known


def test_pages_load_nothing_from_elsewhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "extra_javascript" not in settings and "font: false" in settings
    for page in PAGES:
        assert not re.search(r"<script|<link|!\[[^]]*\]\(http", page.read_text()), page
