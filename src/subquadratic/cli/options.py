"""From a dataclass and a command line to an instance of it, with errors of one line that name what was meant."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ..core.choices import check_backend
from .config_file import read_config
from .text_io import fitted, help_width, print_text
from .values import check_values

COMPUTING = ("train", "generate", "fill", "evaluate", "predict", "serve", "bench", "compare", "reproduce", "info", "distil")  # verbs
T = TypeVar("T")
Groups = Mapping[str, Sequence[str]]


class UsageError(Exception):
    """A command line that cannot be understood; the text is one line."""


@dataclass(frozen=True)
class CommandLine:
    """What a verb takes: a dataclass of options, the flag of each field, and the one given without a flag."""

    options: type[Any]
    flags: dict[str, str]
    positional: str | None

    def hints(self) -> dict[str, Any]:
        """The type of each field."""
        return get_type_hints(self.options)

    def helps(self) -> dict[str, str]:
        """The text under each field, also where it is inherited."""
        classes = [kind for kind in reversed(self.options.__mro__) if dataclasses.is_dataclass(kind)]
        params = [param for kind in classes for param in docstring_parser.parse_from_object(kind).params]
        return {param.arg_name: param.description or "" for param in params}


class _Described(Exception):
    """Carries what `parse` was about to parse with."""


_describing: ContextVar[bool] = ContextVar("describing", default=False)


def command_line(run: Callable[[Sequence[str]], int], argv: Sequence[str] = ()) -> CommandLine:
    """What the verb that `run` is takes, with nothing parsed or run; `argv` names the part of a verb that has several."""
    token = _describing.set(True)
    try:
        run(argv)
    except _Described as described:
        return described.args[0]
    finally:
        _describing.reset(token)
    raise TypeError(f"{run.__module__} did not parse its options")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def parse(
    options: type[T],
    argv: Sequence[str],
    *,
    verb: str,
    examples: str,
    positional: str | None = None,
    renamed: dict[str, str] | None = None,
    alone: dict[str, str] | None = None,
    groups: Groups | None = None,
) -> T:
    """An instance of the dataclass `options` from flags `--field VALUE` and a YAML file; flags win.

    The first paragraph of the dataclass's docstring and the string under each field are the help. `positional` names the
    field given without a flag; `renamed` gives fields another flag, for words that Python keeps for itself. A boolean
    flag may stand alone, and so may the flags in `alone`, which gives the value they then have. `groups` are headings of
    the help, each with its fields; the others stand before them. `--help` prints and leaves. A flag may be written with
    hyphens for its underscores.

    Raises:
        UsageError: an unknown flag, a value of the wrong type.
        ValueError: a configuration file that cannot be read, a number that nothing takes, an empty name of a file; for a verb that
            computes, a backend in the environment that does not exist or cannot run.
    """
    flags = {field.name: (renamed or {}).get(field.name, field.name) for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    taken = CommandLine(options, flags, positional)
    if _describing.get():
        raise _Described(taken)
    hints = taken.hints()
    parser = _parser(taken, hints, verb=verb, examples=examples, groups=groups or {})
    types = {flags[name]: hints[name] for name in flags if name != positional}
    words = _normalise(argv, types, alone or {}, positional=positional)
    texts = [f"--config=\n{read_config(word.partition('=')[2])}" for word in words if word.startswith("--config=")]  # they come first
    try:
        found = parser.parse_args([*texts, *words[len(texts) :]])
    except argparse.ArgumentError as error:
        raise UsageError(_one_line(str(error), types, words, {} if positional is None else {positional: hints[positional]})) from error
    for word in words:  # the parser reads YAML: of a text that may be left out it would take `null` for nothing
        flag, equals, text = word[2:].partition("=")
        if equals and types.get(flag) == (str | None):
            found[flag] = text
    given = options(**{name: found[flag] for name, flag in flags.items()})
    check_values(given, flags)
    if verb in COMPUTING:
        check_backend(os.environ)
    return given


def _parser(taken: CommandLine, hints: dict[str, Any], *, verb: str, examples: str, groups: Groups) -> ArgumentParser:
    helps, positional = taken.helps(), taken.positional
    usage = f"subq {verb} {positional.upper() + ' ' if positional else ''}[--option VALUE ...] [--config FILE]"
    parser = _Parser(
        prog=f"subq {verb}",
        usage="\n       ".join(fitted(usage, help_width() - len("usage: "))),
        description=docstring_parser.parse_from_object(taken.options).short_description,
        epilog=examples,
        exit_on_error=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options; flags win over it.")
    holders = {name: group for title, names in groups.items() for group in [parser.add_argument_group(title)] for name in names}
    for field in dataclasses.fields(taken.options):
        name, kind, text = taken.flags[field.name], hints[field.name], helps[field.name]
        holder = holders.get(field.name, parser)
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name == positional:
            holder.add_argument(name, type=kind, help=text, metavar=name.upper())
        elif required:
            holder.add_argument(f"--{name}", type=kind, help=text, required=True)
        else:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            holder.add_argument(f"--{name}", type=kind, help=text, default=default)
    return parser


def _normalise(argv: Sequence[str], types: dict[str, Any], alone: dict[str, str], *, positional: str | None) -> list[str]:
    """`--flag VALUE` as `--flag=VALUE`, so that a value may begin with a dash; hyphens in a flag as underscores; boolean
    flags alone mean true; `--config` comes first, so that flags win over it wherever it stands.

    Raises:
        UsageError: a flag that does not exist.
    """
    first: list[str] = []
    rest: list[str] = []
    known = [*types, "config", "print_config", "help"]
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or word == "--":
            rest.append(word)
            continue
        name = name.replace("-", "_")
        word = f"--{name}{equals}{value}"
        top = name.partition(".")[0]
        if top not in known:
            raise UsageError(f"unknown option --{name}{_instead(top, known)}")
        follower = argv[position] if position < len(argv) else None
        if not equals and top in types and types[top] in (bool, bool | None):
            # Where there is nothing else to be, a word after it is its value, and told if it is a wrong one.
            given = follower is not None and (follower in ("true", "false") or (positional is None and not _is_flag(follower, known)))
            word += f"={follower}" if given else "=true"
            position += given
        elif not equals and top in alone and (follower is None or _is_flag(follower, known)):
            word += f"={alone[top]}"
        elif not equals and top not in ("help", "print_config"):
            if follower is None or _is_flag(follower, known):
                raise UsageError(f"--{name} needs a value")
            word, position = f"{word}={follower}", position + 1
        (first if top == "config" else rest).append(word)
    return first + rest


def _instead(name: str, known: Sequence[str]) -> str:
    """What was perhaps meant by a flag that there is not: one that there is, or a field of a model's configuration."""
    if "fields" in known:
        from ..models.config import config_class, model_types

        if any(name == field.name for kind in model_types() for field in dataclasses.fields(config_class(kind))):
            return f"; it is a field of a model's configuration: give --fields.{name} VALUE"
    return nearest("--" + name, ["--" + flag for flag in known])


def _is_flag(word: str, known: Iterable[str]) -> bool:
    return word.startswith("--") and re.split(r"[=.]", word[2:])[0].replace("-", "_") in known


def _one_line(message: str, types: dict[str, Any], words: Sequence[str], bare: dict[str, Any]) -> str:
    """What the parser says over several lines, in one; `bare` is the type of what is given without a flag."""
    missing_file = re.match(r"Parser key \"config\": File does not exist: '(.*)'", message)
    if missing_file:
        return f"config: no such file: {missing_file[1]}"
    if message.startswith("Problems parsing config"):
        files = " or ".join(word.partition("=")[2] for word in words if word.startswith("--config="))
        return re.sub(r"\s+", " ", message.replace("Problems parsing config", f"config: {files} is not valid YAML", 1)).strip()
    found = re.match(r'Parser key "([\w.]+)":', message)
    value = re.search(r"(?:Given value|Got value): (.*)\s*$", message)
    if found and value and found[1] in types:
        return f"--{found[1]} must be {_spell(types[found[1]]).replace('...', found[1] + '.')}, got {_cut(value[1])!r}"
    if found and value and found[1] in bare:
        return f"{found[1]} must be {_spell(bare[found[1]])}, got {_cut(value[1])!r}"
    required = re.match(r"the following arguments are required: (.*)", message)
    if required:
        names = required[1].split(", ")
        missing = [f"--{name}" if name in types else name.upper() for name in names]
        return f"{' and '.join(missing)} {'is' if len(names) == 1 else 'are'} missing"
    unknown = re.search(r"Option '([\w.]+)' is not accepted", message)
    if unknown:
        return f"unknown option {unknown[1]} in the configuration file{nearest(unknown[1], types)}"
    return re.sub(r"\s+", " ", message).strip()


def _cut(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _spell(hint: Any) -> str:
    """A type in words: `int | None` is an integer that may be left out."""
    words = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    if hint in words:
        return words[hint]
    if getattr(hint, "__origin__", None) is dict:
        return "given as --...NAME VALUE"
    if hint == tuple[str, ...]:
        return "a list of texts"
    parts = [part for part in getattr(hint, "__args__", ()) if part is not type(None)]
    if len(parts) == 1 and hint != parts[0] and not isinstance(parts[0], str):
        return _spell(parts[0])
    if parts and not any(isinstance(part, str) for part in parts):
        return " or ".join(map(_spell, parts))
    return f"one of {', '.join(map(str, parts))}" if parts else str(hint)


class _Parser(ArgumentParser):
    """Says where its help cannot be written, which argparse passes over."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file in (None, sys.stdout):
            print_text(message)
        else:
            super()._print_message(message, file)


class _Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Examples keep their line breaks; a default is named where there is one to name; types are left to the text."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, max_help_position=28, width=help_width(), **kwargs)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(f"{indent}{part}" for line in text.splitlines() for part in fitted(line, width - len(indent)))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.option_strings and type(action.default) in (int, float, str) and action.default != argparse.SUPPRESS:
            text = f"{text} Default: {action.default}."
        return text
