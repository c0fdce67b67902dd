"""`subq completion`: a script that completes verbs, options and their values in a shell, made by shtab."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..data.task_names import TASKS
from ..training.defaults import MODELS
from .main import VERBS
from .options import CommandLine, command_line, parse
from .text_io import print_text
from .values import PLACES

EXAMPLES = """\
examples:
  subq completion bash > ~/.local/share/bash-completion/completions/subq
  subq completion zsh > ~/.zfunc/_subq              in a folder of $fpath; then start zsh anew
  subq completion fish > ~/.config/fish/completions/subq.fish
"""
PARTS = {"tokenizer": ("train", "show")}  # verbs that have verbs of their own
HYPHENS = """\
# A flag may be written with hyphens for its underscores, which the function above knows alone.
_subq() {
  local place flag COMP_WORDS=("${COMP_WORDS[@]}")
  for place in "${!COMP_WORDS[@]}"; do
    flag="${COMP_WORDS[place]#--}"
    [[ "${COMP_WORDS[place]}" == --?* ]] && COMP_WORDS[place]="--${flag//-/_}"
  done
  _shtab_subq "$@"
}

"""
FOLDERS = ("run", "out", "resume", "weights", "checkpoint")
NAMES = {"model": MODELS, "task": tuple(TASKS)}


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Print a shell script that completes the verbs of subq, their options and the options' values."""

    shell: Literal["bash", "zsh", "fish"]
    """bash, zsh or fish."""


def run(argv: Sequence[str]) -> int:
    options = parse(CompletionOptions, argv, verb="completion", examples=EXAMPLES, positional="shell")
    import shtab

    script = shtab.complete(_parser(hyphens=options.shell != "bash"), options.shell)
    if options.shell == "bash":
        before, complete, after = script.rpartition("complete ")
        script = f"{before}{HYPHENS}{complete}{after.replace('-F _shtab_subq', '-F _subq')}"
    print_text(script)
    return 0


def _parser(*, hyphens: bool) -> argparse.ArgumentParser:
    """What subq takes, as plain argparse has it: all that shtab reads. With `hyphens` each flag has its spelling with hyphens too."""
    parser = argparse.ArgumentParser(prog="subq", add_help=False)
    parser.add_argument("--help", action="store_true", help="show the verbs")
    parser.add_argument("--version", action="store_true", help="show the version")
    verbs = parser.add_subparsers(dest="verb")
    for verb, text in VERBS.items():
        run = importlib.import_module(f"{__package__}.{verb}").run
        inner = verbs.add_parser(verb, help=text, add_help=False)
        if verb not in PARTS:
            _add(inner, command_line(run), hyphens=hyphens)
            continue
        parts = inner.add_subparsers(dest="part")
        for part in PARTS[verb]:
            _add(parts.add_parser(part, add_help=False), command_line(run, [part]), hyphens=hyphens)
    return parser


def _add(parser: argparse.ArgumentParser, taken: CommandLine, *, hyphens: bool) -> None:
    import shtab

    hints, helps = taken.hints(), taken.helps()
    for name, flag in taken.flags.items():
        text = " ".join(helps[name].split()).partition(". ")[0]
        spellings = dict.fromkeys((flag, flag.replace("_", "-")) if hyphens else (flag,))
        words = (flag,) if name == taken.positional else tuple(f"--{spelling}" for spelling in spellings)
        text = text.replace("%", "%%")
        if hints[name] is bool:
            parser.add_argument(*words, help=text, action="store_true")
            continue
        action = parser.add_argument(*words, help=text, choices=_choices(name, hints[name]))
        if name in PLACES:
            action.complete = shtab.DIRECTORY if name in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    for flag, text in (("help", "show all options, with examples"), ("print_config", "print the options as resolved, and stop")):
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    parser.add_argument("--config", help="YAML file with any of the options").complete = shtab.FILE  # type: ignore[attr-defined]


def _choices(name: str, hint: Any) -> tuple[str, ...] | None:
    """The values that a flag may have, where they can be listed."""
    kinds = [hint, *get_args(hint)]
    if bool in kinds:
        return ("true", "false")
    literal = next((kind for kind in kinds if getattr(kind, "__origin__", None) is Literal), None)
    return tuple(map(str, get_args(literal))) if literal is not None else NAMES.get(name)
