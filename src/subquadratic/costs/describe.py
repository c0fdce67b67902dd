"""What a kind of model can do, found out from its configuration: so a model that is added describes itself, and nobody waits for PyTorch.

What a configuration does not state (which positions it accepts, whether it needs a `max_length`) is tried out on a tiny one. The paper
and the cost stand in the file of the backbone, which is read, not imported.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import docstring_parser

from ..core.choices import POSITIONS
from ..models.config import BackboneConfig, config_class, model_types

TINY: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2}
LENGTH = 128  # a `max_length` to try


@dataclass(frozen=True, kw_only=True)
class FieldFacts:
    """A field of a configuration; `default` is None, like "required", where there is none to show."""

    name: str
    default: Any
    required: bool
    own: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One row of the table of models. `state` is "constant", "grows" or either "up to max_length", perhaps with what makes it constant."""

    name: str
    title: str
    paper: str
    cost: str
    letters: str
    bidirectional: bool
    state: str
    positions: list[str]
    needs_max_length: bool
    cross_attention: bool
    reversible: bool
    last_positions_only: bool
    fields: list[FieldFacts]


@cache
def model_facts(name: str) -> ModelFacts:
    """The facts of one kind of model.

    Raises:
        ValueError: an unknown name, with the nearest one.
    """
    config = config_class(name)
    module, backbone = _backbone_texts(config)
    paper = re.search(r"arXiv (\d{4}\.\d{4,5})", module)
    cost = re.search(r"[Cc]ost (O\([^)]*\)(?:, or O\([^)]*\) with \w+ \w+)?)", backbone)
    axes = re.search(r"Axes: (.*?)\.(?:\n|$)", module, re.DOTALL)
    return ModelFacts(
        name=name,
        title=module.partition(":")[0].split(" (")[0].strip(),
        paper=paper[1] if paper else "",
        cost=cost[1] if cost else "",
        letters=" ".join(axes[1].split()) if axes else "",
        bidirectional=not config.causal_only,
        state=_state(config),
        positions=[str(kind).lower() for kind in POSITIONS if _works(config, positions=kind)],
        needs_max_length=_tiny(config) is None,
        cross_attention=_works(config, cross_attention=True),
        reversible=_works(config, reversible=True),
        last_positions_only=config.aligned_right,
        fields=_fields(config),
    )


def all_models() -> list[ModelFacts]:
    """Every model there is, the exact baseline last."""
    return [model_facts(name) for name in sorted(model_types(), key=lambda name: (name == "transformer", name))]


def with_needed(config: type[BackboneConfig], length: int | None, **fields: Any) -> BackboneConfig:
    """A configuration with `fields`, and with `max_length` = `length` where it needs one.

    Raises:
        ValueError: fields that do not go together.
    """
    names = [field.name for field in dataclasses.fields(config)]
    if length is not None and "max_length" in names and "max_length" not in fields and needs_max_length(config):
        fields["max_length"] = length
    return config.from_dict({"model_type": config.model_type, **fields})


def needs_max_length(config: type[BackboneConfig]) -> bool:
    """Whether a causal model of this kind needs a `max_length`."""
    return _tiny(config) is None


def _tiny(config: type[BackboneConfig], **fields: Any) -> BackboneConfig | None:
    with contextlib.suppress(ValueError, TypeError):
        return config(**{**TINY, **fields})
    return None


def _works(config: type[BackboneConfig], **fields: Any) -> bool:
    """Whether a tiny model with these fields can be configured."""
    return any(_tiny(config, **fields, **more) is not None for more in ({}, {"max_length": LENGTH}))


def _state(config: type[BackboneConfig]) -> str:
    growth = "constant" if not config.state_grows else f"grows; constant with {config.state_bound}" if config.state_bound else "grows"
    return f"{growth}, up to max_length" if needs_max_length(config) else growth


def _backbone_texts(config: type[BackboneConfig]) -> tuple[str, str]:
    """The docstrings of the module and of the class of what `build` makes."""
    home = config.build.__module__
    found = find_spec(home.replace(".configs.", "."))
    if found is None or found.origin is None:
        return sys.modules[home].__doc__ or "", ""
    source = Path(found.origin)
    if source.name == "__init__.py":  # a model that is a folder
        source = source.with_name("backbone.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    name = str(inspect.get_annotations(config.build).get("return"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    text = next((ast.get_docstring(node) for node in classes), None)
    return ast.get_docstring(tree) or "", " ".join((text or "").split())


def _fields(config: type[BackboneConfig]) -> list[FieldFacts]:
    texts: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        if dataclasses.is_dataclass(kind):
            documented = {param.arg_name: param.description or "" for param in docstring_parser.parse_from_object(kind).params}
            texts |= {name: " ".join(text.split()) for name, text in documented.items() if text}
    rows = []
    for field in dataclasses.fields(config):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if required else field.default
        text = texts.get(field.name, "").replace("``", "")
        rows.append(FieldFacts(name=field.name, default=default, required=required, own=field.name in config.__annotations__, text=text))
    return rows
