"""`subq info`: what a model costs against its length, where exact attention is cheaper, and what each option adds."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.plain_json import to_json
from ..training.defaults import DEFAULTS, ModelDefaults
from ..training.status import status
from .models import WIDTH, first_word
from .options import parse
from .text_io import print_text

if TYPE_CHECKING:
    from ..costs.info import LengthRow, OptionRow

LENGTH = 4096
EXAMPLES = """\
examples:
  subq info                                          the default model of subq train, up to 4,096 tokens
  subq info --model linformer --length 16384
  subq info --model performer --dim 512 --depth 12 --heads 8 --fields.features 256
  subq info runs/performer-1 --length 65536          a trained model
  subq info --model fastformer --causal false --format json
"""


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Show what a model costs at each length, compared with exact attention: parameters, state, operations and memory. subq info [RUN]."""

    run: str | None = None
    """Run folder or saved model to look at. Default: a new model from the options below."""
    model: str = "performer"
    """Backbone, as in subq train; subq models lists them."""
    length: int | None = None
    """Longest sequence to look at. Default: 4096, or the model's maximum if that is less."""
    causal: bool | None = None
    """Predict the next token (true), or masked tokens from both sides (false). Default: true."""
    dim: int | None = None
    """Width of the model. Default for this and the next two: as in subq train."""
    depth: int | None = None
    """Number of layers."""
    heads: int | None = None
    """Number of attention heads."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Any further field of the model's configuration, as --fields.NAME VALUE."""
    vocab_size: int = 260
    """Vocabulary size: 260 for bytes and their special tokens."""
    batch_size: int = 1
    """Sequences in a training step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass."""
    threads: int | None = None
    """Number of threads, at most 8 per core (100 if that is more). Default: PyTorch's own choice."""
    options: bool = True
    """Also show what each field of the configuration costs."""
    format: Literal["text", "json"] = "text"
    """What to print."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or options that a saved model already answers."""
        for name, least in (("length", 2), ("threads", 1), ("dim", 1), ("depth", 1), ("heads", 1), ("vocab_size", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name, most in (("depth", 10_000), ("batch_size", 2**31 - 1)):  # every layer is built, if without its memory
            value = getattr(self, name)
            if value is not None and value > most:
                raise ValueError(f"{name} must be at most {most:,}, got {value:,}")
        for name, value in self.fields.items():
            if isinstance(value, int) and value > 2**20:
                raise ValueError(f"fields.{name} must be at most {2**20:,}, got {value:,}")
        if self.run is not None:
            plain = InfoOptions()
            for name in ("model", "causal", "dim", "depth", "heads", "fields", "vocab_size"):
                if getattr(self, name) != getattr(plain, name):
                    raise ValueError(f"{name} is for a new model, and {self.run} has its own; leave one of them out")


def run(argv: Sequence[str]) -> int:
    options = parse(InfoOptions, first_word(argv, "run"), verb="info", examples=EXAMPLES)
    options.check()
    asked = _asked(options)
    with status("loading PyTorch") as line:
        found = _measure(options, asked, line.show)
    if options.format == "text":
        print_text("\n".join(_lines(found)) + "\n")
    if options.options and found["config"] is not None:  # takes longer: the rest is there by now
        with status("options") as line:
            found["options"] = _changes(found, line.show)
        if options.format == "text":
            print_text("\n".join(["", *_option_lines(found["options"])]) + "\n")
    if options.format == "json":
        print_text(to_json(_plain(found), indent=2, ensure_ascii=False) + "\n")
    return 0


def _measure(options: InfoOptions, asked: Any, show: Callable[[str], None]) -> dict[str, Any]:
    """Everything there is to say, but for the options."""
    from ..core.threads import use_threads
    from ..costs.info import build_on_meta, doubling, exact_twin, length_rows

    use_threads(options.threads)
    show("building")
    name, model, config, length = _saved(options, asked) if options.run is not None else _new(options, asked)
    lengths = doubling(length)
    measure = {"batch_size": options.batch_size, "precision": options.precision}
    show("costs against the length")
    rows, cost = length_rows(model, lengths, **measure)  # type: ignore[arg-type]
    exact = None
    if config is not None and (config.model_type != "transformer" or config.window is not None):
        show("exact attention")
        twin = build_on_meta(exact_twin(config), vocab_size=model.vocab_size, length=length)
        exact, _ = length_rows(twin, lengths, **measure)  # type: ignore[arg-type]
    size = {"vocab_size": getattr(model, "vocab_size", None), "options": None}
    from ..core.backend_info import backend_info

    size |= {"computes": str(backend_info())}
    return {"name": name, "config": config, "length": length, "cost": cost, "rows": rows, "exact": exact, **measure, **size}


def _changes(found: dict[str, Any], show: Callable[[str], None]) -> list[OptionRow]:
    from ..costs.info import option_rows

    return option_rows(found["config"], vocab_size=found["vocab_size"], progress=lambda done, of: show(f"options: {done + 1} of {of}"))


def _asked(options: InfoOptions) -> Any:
    """The configuration of a new model, or a saved one, before PyTorch is loaded.

    Raises:
        ValueError: there is none.
    """
    from ..costs.describe import with_needed
    from ..models.config import config_class

    if options.run is not None:
        return _asked_of_folder(str(options.run))
    kind = config_class(options.model)
    defaults = DEFAULTS.get(options.model, ModelDefaults())
    values = {name: getattr(options, name) or getattr(defaults, name) for name in ("dim", "depth", "heads")}
    fields = defaults.fields_beside(options.fields, values["heads"])
    causal = True if options.causal is None else options.causal
    return with_needed(kind, options.length or LENGTH, **{**values, "causal": causal, **fields})


def _asked_of_folder(path: str) -> tuple[Path, str, dict[str, Any]]:
    """The folder, the class of its model, and what that was made of; its weights are not read."""
    from .. import heads
    from ..evaluation.saved import find_folder
    from ..heads.files import read_config

    folder = find_folder(path)
    content = read_config(folder)
    head = str(content.pop("class"))
    content.pop("quantize", None)  # what is said is of float32 weights, which can be trained
    if head not in heads.__all__:
        raise ValueError(f"run: {folder} holds a {head} of a published package; subq info knows the models of subq models only")
    return folder, head, content


def _new(options: InfoOptions, config: Any) -> tuple[str, Any, Any, int]:
    from ..costs.info import build_on_meta

    length = LENGTH if options.length is None else options.length
    limit = config.length_limit
    if limit is not None and options.length is None:
        length = min(length, limit)
    return options.model, build_on_meta(config, vocab_size=options.vocab_size, length=length), config, length


def _saved(options: InfoOptions, asked: tuple[Path, str, dict[str, Any]]) -> tuple[str, Any, Any, int]:
    from .. import heads
    from ..costs.shape_run import on_meta
    from ..evaluation.trained import telling_why
    from ..heads.language_model import LanguageModel

    folder, head, content = asked
    with telling_why(folder), on_meta():
        model: Any = getattr(heads, head).from_options(content)
    limit = getattr(model, "max_length", None) or getattr(getattr(model, "embedding", None), "max_length", None)
    length = min(LENGTH, limit or LENGTH) if options.length is None else options.length
    config = model.config if isinstance(model, LanguageModel) else None
    return f"{folder} ({head})", model, config, length


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    from ..costs.info import wins_from

    config, exact = found["config"], found["exact"]
    names = [each.name for each in dataclasses.fields(found["rows"][0]) if each.name != "length"]
    return {
        "model": found["name"],
        "config": None if config is None else config.to_dict(),
        "length": found["length"],
        "batch_size": found["batch_size"],
        "precision": found["precision"],
        "training": dataclasses.asdict(found["cost"]),
        "lengths": [dataclasses.asdict(row) for row in found["rows"]],
        "exact_attention": None if exact is None else [dataclasses.asdict(row) for row in exact],
        "cheaper_from": None if exact is None else {name: wins_from(found["rows"], exact, name) for name in names},
        "computes": found["computes"],
        "options": None if found["options"] is None else [dataclasses.asdict(row) for row in found["options"]],
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    from ..evaluation.report import amount, size

    cost, config = found["cost"], found["config"]
    yield f"model       {found['name']}"
    if config is not None:
        values = {name: value for name, value in config.to_dict().items() if name not in ("model_type",)}
        defaults = {each.name: each.default for each in dataclasses.fields(config)}
        said = ", ".join(f"{name} {_word(value)}" for name, value in values.items() if value != defaults[name])
        yield from textwrap.wrap(said, WIDTH, initial_indent=" " * 12, subsequent_indent=" " * 12)
    yield f"parameters  {cost.parameters:,} ({size(cost.parameter_bytes)})"
    one = f"{found['batch_size']} x {found['length']:,} tokens, {found['precision']}, AdamW"
    yield f"training    {size(cost.total_bytes)} for a step ({one}), {amount(cost.flops)}FLOP"
    parts = {"weights": "parameter", "gradients": "gradient", "optimizer": "optimizer", "activations": "activation"}
    kept = ", ".join(f"{word} {size(getattr(cost, f'{name}_bytes'))}" for word, name in parts.items())
    yield f"            {kept},"
    yield f"            temporary {size(cost.temporary_bytes)}, and a tenth of it all for the allocator"
    yield ""
    yield from _length_lines(found["rows"], found["exact"])
    yield ""
    yield from textwrap.wrap(f"here        {found['computes']}", WIDTH, subsequent_indent=" " * 12)


def _length_lines(rows: list[LengthRow], exact: list[LengthRow] | None) -> Iterator[str]:
    from ..costs.info import wins_from
    from ..evaluation.report import amount, size, table

    columns: tuple[tuple[str, str, Any], ...] = (
        ("training FLOP/token", "flops_per_token", amount),
        ("activations/token", "activation_bytes_per_token", size),
        ("state", "state_bytes", size),
        ("FLOP/next token", "next_token_flops", amount),
    )
    head = ["length", *(title for title, _, _ in columns)]
    cells = [head]
    for index, row in enumerate(rows):
        line = [f"{row.length:,}"]
        for _, name, write in columns:
            own = getattr(row, name)
            its = None if exact is None else getattr(exact[index], name)
            line.append("-" if own is None else write(own) + (f" | {write(its):>7}" if its is not None else ""))
        cells.append(line)
    yield from table(cells, left=0)
    if exact is None:
        return
    yield "left: this model, right of the bar: exact attention of the same size. It is cheaper, and stays so,"
    for title, name, _ in columns:
        start = wins_from(rows, exact, name)
        if getattr(rows[0], name) is not None:
            where = f"from {start:,} tokens on" if start is not None else f"nowhere up to {rows[-1].length:,} tokens"
            yield f"  in {title:<20} {where}"


def _option_lines(changes: list[OptionRow]) -> Iterator[str]:
    from ..costs.info import OPTIONS_DEPTH, OPTIONS_LENGTH, matters
    from ..evaluation.report import table

    yield f"what an option costs (a model of at most {OPTIONS_DEPTH} layers, {OPTIONS_LENGTH} tokens):"
    rows = [["option", "instead of", "parameters", "training FLOP", "activations"]]
    for change in (change for change in changes if matters(change)):
        ratios = (change.parameters, change.flops, change.activation_bytes)
        rows.append([f"{change.name} {_word(change.after)}", _word(change.before), *map(_percent, ratios)])
    yield from table(rows, left=2)
    free = list(dict.fromkeys(f"{change.name} {_word(change.after)}" for change in changes if not matters(change)))
    if free:
        yield from textwrap.wrap(f"next to nothing: {', '.join(free)}", WIDTH)


def _percent(ratio: float) -> str:
    return "-" if abs(ratio) < 0.0005 else f"{ratio:+.1%}"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
