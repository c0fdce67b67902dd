"""The options of a comparison, and all that can be said against them before PyTorch is loaded."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..training.data_choice import DataOptions
from ..training.data_options import absolute_name, check_data_options
from ..training.defaults import MODELS
from ..training.numbers import check_numbers, require_value
from ..training.options import TrainOptions, parse_duration

PATHS = ("data", "validation_data", "tokenizer")
LARGEST = 10**12  # parameters
READ = tuple(field.name for field in dataclasses.fields(DataOptions))
SHORTEST = 60.0  # seconds of a comparison


@dataclass(frozen=True, kw_only=True)
class CompareOptions(DataOptions):
    """Train several models under equal conditions on the same data, and report which serves it best, with what certainty."""

    models: str = "all"
    """Models of this package, comma-separated, or all that suit the data; none: only those of --model."""
    model: str | None = None
    """Further models, comma-separated: FILE.py:FUNCTION, called with vocab_size to give an nn.Module from tokens (B, N) to logits
    (B, N, vocab_size) that looks at no later token; or the folder of a causal model of transformers, of which the architecture is taken.
    They begin with random weights, as ours do."""
    causal: bool | None = None
    """Predict the next token (true), or masked tokens from both sides (false). Default: true; for a classifier false."""
    length: int = 512
    """Tokens in a window of text; rows and pairs are cut to this length."""

    equal: Literal["time", "tokens", "flops"] = "time"
    """What every run gets alike: seconds of training, tokens, or floating-point operations (forward and backward)."""
    parameters: str | None = None
    """Parameters of every model, within 2 %, such as 1000000, 500k or 3m. Models of this package and architectures of transformers are
    sized to have them; what FILE.py:FUNCTION gives has its own size. Default: those of the first --model, else 1m."""
    budget: str = "10m"
    """Time for all of it, such as 10m or 2h: searching learning rates, training, measuring."""
    seeds: int = 3
    """Runs of each model, with seeds 0, 1 ...; verdicts need 2 at least."""
    rates: int = 3
    """Learning rates tried for each model, from its default up or down, by factors of 2; 1 takes the default as it is."""
    batch_size: int | None = None
    """Windows, rows or pairs in a batch. Default: as many windows as make 512 tokens; 16 rows or pairs."""
    longest: int | None = None
    """Tokens up to which speed and memory are measured. Default: as far as time and memory allow."""

    out: str | None = None
    """Folder to write. Default: comparisons/compare-1, or the next free number."""
    overwrite: bool = False
    """Replace an earlier comparison in the folder."""
    resume: str | None = None
    """Go on with a comparison that was stopped: its folder. Its own options hold."""
    add_model: str | None = None
    """With --resume: models to add, comma-separated, as in --models or --model; one that was left out or failed is tried again."""
    against: str | None = None
    """results.json of another comparison of the same data, from another machine, version or budget, to show beside this one."""
    threads: int | None = None
    """Number of threads. Default: one per core."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object per line."""
    dry_run: bool = False
    """Print what would be done (sizes, time for each part) and exit."""

    def seconds(self) -> float:
        return parse_duration(self.budget)

    def check(self) -> None:
        """Raises ValueError for a value out of range, or options that do not go together."""
        for each in dataclasses.fields(self):
            check_numbers(each.name, getattr(self, each.name))
        for name, least in (("length", 8), ("seeds", 1), ("rates", 1), ("batch_size", 1), ("longest", 8), ("threads", 1)):
            value = getattr(self, name)
            require_value(value is None or value >= least, name, f"at least {least}", value)
        require_value(self.seeds <= 100, "seeds", "at most 100", self.seeds)
        require_value(self.rates <= 15, "rates", "at most 15", self.rates)
        require_value(self.seconds() >= SHORTEST, "budget", "at least 60 seconds", self.budget)
        target_parameters(self.parameters)
        if self.quiet and self.json:
            raise ValueError("quiet prints nothing and json one object a line: leave out one of the two")
        if self.add_model is not None and self.resume is None:
            raise ValueError("add_model adds to a comparison that is there: name its folder with --resume")
        if self.resume is not None and (self.out is not None or self.overwrite):
            raise ValueError("resume goes on in the comparison's own folder: leave out --out and --overwrite")
        if self.data == "-" or self.validation_data == "-":
            raise ValueError("data: standard input can be read once, and every model reads the data: name a file")
        check_data_options(training_options(self))
        names = [*ours(self), *(wanted.name for wanted in foreign(self))]
        if not names:
            raise ValueError("models: there is no model to compare: name some with --models or --model")
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise ValueError(f"models: {doubled} is there twice; name each once")


@dataclass(frozen=True)
class Foreign:
    """A model that is none of this package: `name` in the comparison, `source` "file" or "transformers", and where it is."""

    name: str
    source: str
    path: str
    function: str = ""

    def spec(self) -> dict[str, Any]:
        """What `foreign.build` takes."""
        return {"source": self.source, "path": self.path, **({"function": self.function} if self.function else {})}


def ours(options: CompareOptions) -> list[str]:
    """The models of this package that are asked for.

    Raises:
        ValueError: one that there is not.
    """
    if options.models.strip() == "none":
        return []
    names = comma_separated(options.models)
    if names == ["all"]:
        return list(MODELS)
    for name in names:
        if name not in MODELS:
            close = difflib.get_close_matches(name, MODELS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"models must be all, none, or of {', '.join(MODELS)}{hint}, got {name!r}; others are named by --model")
    return names


def foreign(options: CompareOptions) -> list[Foreign]:
    """The other models.

    Raises:
        ValueError: a file or folder that is not there, or is no model.
    """
    return [foreign_model(text) for text in comma_separated(options.model or "")]


def foreign_model(text: str) -> Foreign:
    """What one name in `--model` stands for.

    Raises:
        ValueError: a file or folder that is not there, or is no model.
    """
    path, colon, function = text.rpartition(":")
    if colon and path.endswith(".py"):
        file = Path(path).expanduser()
        if not file.is_file():
            raise ValueError(f"model: there is no file {path}")
        if not function.isidentifier():
            raise ValueError(f"model: {text} must be FILE.py:FUNCTION, got the function {function!r}")
        return Foreign(f"{file.stem}:{function}", "file", str(file.absolute()), function)
    folder = Path(text).expanduser()
    if text.endswith(".py"):
        raise ValueError(f"model: {text} names no function: give {text}:build, a function that is called with vocab_size")
    if not (folder / "config.json").is_file():
        raise ValueError(f"model: {text} is neither FILE.py:FUNCTION nor the folder of a model of transformers, with its config.json")
    return Foreign(folder.absolute().name, "transformers", str(folder.absolute()))


def target_parameters(text: str | None) -> int | None:
    """`1000000`, `500k` or `3m` as a number.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmb]?)", str(text).strip().lower())
    value = 0.0 if found is None else float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[found[2]]
    if not 1000 <= value <= LARGEST:
        raise ValueError(f"parameters must be a number from 1k on, such as 1000000, 500k or 3m, got {text!r}")
    return round(value)


def training_options(options: CompareOptions, **more: Any) -> TrainOptions:
    """Of a run on these data; `more` are further options of it."""
    read = {name: getattr(options, name) for name in READ}
    return TrainOptions(**{**read, "context": options.length, "causal": options.causal, **more})


def resolved(options: CompareOptions) -> CompareOptions:
    """The same with paths that hold from any folder."""
    paths: dict[str, Any] = {name: absolute_name(getattr(options, name)) for name in PATHS}
    model = None if options.model is None else ",".join(absolute_model(text) for text in comma_separated(options.model))
    return dataclasses.replace(options, **paths, model=model)


def absolute_model(text: str) -> str:
    """What one name in `--model` stands for, from any folder."""
    found = foreign_model(text)
    return f"{found.path}:{found.function}" if found.function else found.path


def comma_separated(text: str) -> list[str]:
    """The names in a value that may hold several."""
    return [name.strip() for name in text.split(",") if name.strip()]
