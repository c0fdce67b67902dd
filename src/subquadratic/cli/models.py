"""`subq models`: the models there are, what each can do, and every field of one."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .options import parse
from .text_io import print_text

if TYPE_CHECKING:
    from ..costs.describe import ModelFacts

WIDTH = 100
EXAMPLES = """\
examples:
  subq models                          the table of models with their limits
  subq models performer                one model, with all its fields and their defaults
  subq models --format json
"""


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List the models and what each can do, or show one with all its fields: subq models [MODEL]."""

    model: str | None = None
    """Model to show with all its fields. Default: a table of all models."""
    format: Literal["text", "json"] = "text"
    """What to print."""


def run(argv: Sequence[str]) -> int:
    options = parse(ModelsOptions, first_word(argv, "model"), verb="models", examples=EXAMPLES)
    from ..costs.describe import all_models, model_facts

    if options.model is not None:
        facts = model_facts(options.model)
        print_text(_as_json(_plain(facts)) if options.format == "json" else "\n".join(_one(facts)) + "\n")
    else:
        every = all_models()
        print_text(_as_json([_plain(facts) for facts in every]) if options.format == "json" else "\n".join(_table(every)) + "\n")
    return 0


def first_word(argv: Sequence[str], name: str) -> list[str]:
    """`argv` with a first word that is no flag as the value of `--name`."""
    words = list(argv)
    return [f"--{name}", *words] if words and not words[0].startswith("-") else words


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _plain(facts: ModelFacts) -> dict[str, Any]:
    values = dataclasses.asdict(facts)
    return {**values, "default_size": _default_size(facts.name)}


def _default_size(name: str) -> dict[str, Any]:
    """What `subq train` makes of it."""
    from ..training.defaults import DEFAULTS, ModelDefaults

    defaults = DEFAULTS.get(name, ModelDefaults())
    return {"dim": defaults.dim, "depth": defaults.depth, "heads": defaults.heads, "context": defaults.context, **defaults.fields}


def _table(every: list[ModelFacts]) -> Iterator[str]:
    from ..evaluation.report import table

    rows = [["model", "arXiv", "cost", "causal", "both ways", "streaming state"]]
    rows += [[f.name, f.paper, _short(f.cost), "yes", _yes(f.bidirectional), f.state] for f in every]
    yield from table(rows, left=6)
    yield ""
    rows = [["model", "positions", "max_length", "decoder", "reversible", "outputs", "layers x dim", "context"]]
    for f in every:
        size = _default_size(f.name)
        needed = "needed" if f.needs_max_length else "-"
        outputs = "last" if f.last_positions_only else "all"
        numbers = [f"{size['depth']} x {size['dim']}", str(size["context"])]
        rows.append([f.name, _kinds(f.positions), needed, _yes(f.cross_attention), _yes(f.reversible), outputs, *numbers])
    yield from table(rows, left=6)
    yield ""
    yield from textwrap.wrap(
        "cost: N is the length and D the width; subq models MODEL says the other letters. both ways: bidirectional too. "
        "decoder: has cross-attention. outputs: of which positions. The last two columns are what subq train makes; "
        "subq info --model MODEL says what that costs.",
        WIDTH,
    )


def _yes(value: bool) -> str:
    return "yes" if value else "-"


def _short(cost: str) -> str:
    return cost.replace("or ", "").replace(" with a window", "")


def _kinds(positions: list[str]) -> str:
    from ..core.choices import POSITIONS

    missing = [str(kind).lower() for kind in POSITIONS if str(kind).lower() not in positions]
    return f"not {', '.join(missing)}" if missing else "all"


def _one(facts: ModelFacts) -> Iterator[str]:
    yield f"{facts.name}: {facts.title}" + (f", https://arxiv.org/abs/{facts.paper}" if facts.paper else "")
    yield ""
    for name, text in (
        ("cost", f"{facts.cost} for attention" if facts.cost else "not stated"),
        ("letters", facts.letters or "-"),
        ("direction", "causal or bidirectional" if facts.bidirectional else "causal only"),
        ("state", facts.state),
        ("positions", ", ".join(facts.positions)),
        ("max_length", "needed: the most tokens it will ever take" if facts.needs_max_length else "not needed"),
        ("context", "cross-attention with --fields.cross_attention true" if facts.cross_attention else "no cross-attention"),
        ("outputs", "of its last positions only" if facts.last_positions_only else "of every position"),
        ("subq train", ", ".join(f"{name} {value}" for name, value in _default_size(facts.name).items())),
    ):
        yield from _entry(name, text, 12)
    for title, own in (("its own fields", True), ("fields of every model", False)):
        yield ""
        yield f"{title} (--fields.NAME VALUE):"
        for field in facts.fields:
            if field.own is own:
                yield from _entry(f"  {field.name}", f"{field.text} Default: {_default(field)}.".strip(), 26)


def _default(field: Any) -> str:
    if field.required:
        return "none, it must be given"
    return json.dumps(field.default).strip('"').replace("null", "none")


def _entry(name: str, text: str, indent: int) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - indent) or [""]
    return [name.ljust(indent) + lines[0], *(" " * indent + line for line in lines[1:])]
