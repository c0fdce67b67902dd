"""The file that `--config` names, read once (a pipe can be read no more often) and looked at before its values are taken: one mapping of
options, each given once and with a value."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

LONGEST = 1 << 20  # bytes
MOST = 10_000  # values, where each alias counts as what it stands for


def read_config(name: str) -> str:
    """The text of a file that holds options.

    Raises:
        ValueError: there is none, it is no text or neither YAML nor JSON, it holds something else or too much, or an option twice or
            without a value.
    """
    if not name.strip():
        raise ValueError("config: the name is empty; name a YAML file")
    path = Path(name).expanduser()
    try:
        if not path.exists():
            raise ValueError(f"config: no such file: {path}")
        if path.is_dir():
            more = f"; name the file in it, {path / 'run.yaml'}" if (path / "run.yaml").is_file() else "; name a YAML file"
            raise ValueError(f"config: {path} is a folder{more}")
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise ValueError(f"config: {path} has more than {LONGEST:,} bytes, and is not a file of options; give a YAML file")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"config: {path} is not UTF-8 text (byte {error.start:,}); give a YAML file") from error
    except OSError as error:
        raise ValueError(f"config: cannot read {path}: {error.strerror or error}") from error
    if "\0" in text:
        raise ValueError(f"config: {path} is not text (it contains NUL bytes); give a YAML file")
    values = _read(path, text)
    if values is None:
        raise ValueError(f"config: {path} is empty; give options, one per line, as in dim: 64")
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else "a text" if isinstance(values, str) else f"a {type(values).__name__}"
        raise ValueError(f"config: {path} holds {what}, not options, one per line, as in dim: 64")
    for key in values:
        if not isinstance(key, str):
            raise ValueError(f"config: {path} has the option {key!r}, which is not a name")
    if "config" in values:
        raise ValueError(f"config: {path} names another file with config, which only the command line can; leave it out")
    return text


def _read(path: Path, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes no key twice, where PyYAML takes the last, none without a value, and no more values than anybody would write."""

        def get_single_node(self) -> Any:
            node = super().get_single_node()
            if node is not None and _values(node, {}) > MOST:
                raise ValueError(f"config: {path} stands for more than {MOST:,} values; write out the options that you mean")
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
                word = str(getattr(key, "value", key))
                if isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None:
                    line = key.start_mark.line + 1
                    raise ValueError(f"config: {path}, line {line}: {word} has no value; give it one, or null for the default")
                if word in seen and word != "<<":
                    raise ValueError(f"config: {path} gives {word} twice, again in line {key.start_mark.line + 1}; leave out one of them")
                seen.add(word)
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))  # JSON with tabs is no YAML
        raise ValueError(f"config: {path} is not valid YAML: {_spoken(error)}") from error
    except RecursionError as error:
        raise ValueError(f"config: {path} is nested too deeply") from error


def _values(node: Any, known: dict[Any, int]) -> int:
    """How many there are in a node of YAML; beyond `MOST` where it is a part of itself."""
    if not isinstance(node.value, list):
        return 1
    if node not in known:
        known[node] = MOST  # until it is known
        inside = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[node] = 1 + sum(_values(part, known) for part in inside)
    return known[node]


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"config: {path} gives {key} twice; leave out one of them")
        found[key] = value
    return found


def _spoken(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return " ".join(str(error).split()) if mark is None or problem is None else f"{problem}, line {mark.line + 1}, column {mark.column + 1}"
