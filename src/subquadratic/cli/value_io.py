"""What `subq generate` reads and writes for models of integers and numbers: prompts from files of values, and .npy files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.passed_over import SKIP_HINT
from .generate_options import GenerateOptions
from .text_io import notify

if TYPE_CHECKING:
    from ..data.tokenizers.bytes import Tokenizer
    from ..data.tokenizers.values import ValueTokenizer

USUAL_CONTEXT = 512  # of a saved model that does not say how it was trained


def check_unfit(folder: Path, tokenizer: Tokenizer, options: GenerateOptions) -> None:
    """Options that mean nothing for this model are not passed over in silence.

    Raises:
        ValueError: there is one.
    """
    from ..data.tokenizers.values import reads_values

    values = reads_values(tokenizer)
    for name in ("out", "prompt_length", "column", "dtype"):
        if getattr(options, name) is not None and not values:
            way_out = "; write standard output to a file" if name == "out" else ""
            raise ValueError(f"{name} is for models of integers and numbers, and {folder} is one of text; leave it out{way_out}")
    if values and options.stop:
        raise ValueError(f"stop is for text, and the model in {folder} writes {tokenizer.name}; leave it out")
    if values and options.interactive and difference(tokenizer):
        raise ValueError(f"interactive: the model in {folder} forecasts changes from the last value of a prompt; give --prompt")
    if options.prompt_file is None and options.prompt != "-":
        for name in ("column", "dtype"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is for --prompt_file; leave it out")


def difference(tokenizer: Tokenizer) -> bool:
    """Whether the model's tokens are changes from one number to the next."""
    return bool(getattr(tokenizer, "difference", False))


def unwritten(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Tokens that a model of integers or numbers must not write: special ones, which stand for no value. The end is written where the model
    has seen several documents of integers end; a series goes on for as long as it is asked to.

    Raises:
        ValueError: run.json is damaged.
    """
    from ..data.tokenizers.values import NumberTokenizer, ValueTokenizer
    from ..evaluation.saved import read_facts

    if not isinstance(tokenizer, ValueTokenizer):
        return []
    corpus = read_facts(folder / "run.json").get("corpus")
    documents = corpus.get("documents") if isinstance(corpus, dict) else None
    one = isinstance(tokenizer, NumberTokenizer) or (isinstance(documents, list) and max(documents, default=0) <= 1)
    return [token for token in tokenizer.special if one or token != tokenizer.eos_token]


def read_value_prompt(folder: Path, tokenizer: ValueTokenizer, options: GenerateOptions) -> bytes:
    """The values of the prompt as text, the last `prompt_length` of them; empty for the beginning of a document.

    Raises:
        ValueError: it cannot be read, or is empty; the message names the option.
    """
    from ..evaluation.saved import run_options

    file = "-" if options.prompt == "-" else options.prompt_file
    name = "prompt" if options.prompt == "-" else "prompt_file"
    if file is None:
        try:
            values = tokenizer.parse(options.prompt or "").tolist()
        except ValueError as error:
            raise ValueError(f"prompt: {error}") from error
        count, told = len(values), options.prompt_length or len(values)
    else:
        told = options.prompt_length or run_options(folder).get("context") or USUAL_CONTEXT
        try:
            values, count = _last_values(folder, tokenizer, options, file, told)
        except ValueError as error:
            raise ValueError(_of_prompt(str(error), name)) from error
        if not values:
            raise ValueError(f"{name}: {file} is empty; give it values")
    if count > told:
        values = values[-told:]
        why = "" if options.prompt_length else ", as many as the model was trained on at a time; --prompt_length reads more"
        notify(f"prompt      the last {told:,} of {count:,} values{why}\n")
    if difference(tokenizer) and not values:
        raise ValueError("prompt is missing: this model forecasts changes, and needs a value to begin with, as in --prompt 100.5")
    return " ".join(map(repr, values)).encode()


def _of_prompt(problem: str, name: str) -> str:
    """What is wrong with data, as said of the option that names them here, where rows are not skipped."""
    return problem.removesuffix(f"; {SKIP_HINT}").replace("data:", f"{name}:", 1)


def _last_values(folder: Path, tokenizer: Tokenizer, options: GenerateOptions, file: str, wanted: int) -> tuple[list[Any], int]:
    """The last values of the last document of a file, and how many the document has. Says which of several that is, and what of the file
    was not read."""
    from ..data.corpus import values_of
    from ..data.finding import find_source, fitting
    from ..data.value_files import read_values
    from ..evaluation.saved import run_options

    own = run_options(folder)
    given = {name: value for name in ("column", "dtype") if (value := getattr(options, name)) is not None}
    ways = {name: own[name] for name in ("column", "dtype", "quotes", "skip_bad_rows") if own.get(name) is not None}
    source = find_source(file, values=values_of(tokenizer), **{**fitting(file, rows=False, **ways), **given})
    kept: list[Any] = []
    documents = count = 0
    where, begins, passed = "", True, source.passed()
    for piece in read_values(source, passed):
        if begins:
            kept, count, where, documents = [], 0, piece.where, documents + 1
        begins = piece.last
        kept = [*kept, *piece.values[-wanted:].tolist()][-wanted:]
        count += len(piece.values)
    if documents > 1:
        notify(f"prompt      the last of {documents:,} sequences ({where.rstrip(',')}); for another one, give a file of it alone\n")
    if said := passed.describe():
        notify(f"prompt      {said}\n")
    return kept, count


class Levels:
    """Decodes changes of one row, token by token, to the numbers that they lead to from `start`."""

    def __init__(self, tokenizer: Any, start: float) -> None:
        self.tokenizer, self.level = tokenizer, start
        self.vocab_size = tokenizer.vocab_size

    def decode_bytes(self, tokens: Any) -> bytes:
        """The numbers after these changes, which are taken to come next."""
        written = []
        for change in self.tokenizer.decode_values(tokens).tolist():
            self.level += change
            written.append(f" {self.level:.6g}".encode())
        return b"".join(written)

    def decode(self, tokens: Any) -> str:
        """Of the last of these alone, where it is a number."""
        return f"{self.level:.6g}" if len(self.tokenizer.ordinary(tokens)) else ""


def values_after(tokenizer: ValueTokenizer, prompt: bytes, tokens: list[int]) -> Any:
    """The values that `tokens` stand for after a prompt: integers, or numbers in the units of the data."""
    values = tokenizer.decode_values(tokens)
    return last_value(tokenizer, prompt) + values.cumsum() if difference(tokenizer) else values


def last_value(tokenizer: ValueTokenizer, prompt: bytes) -> float:
    """Of a prompt; 0 where there is none."""
    values = tokenizer.parse(prompt)
    return float(values[-1]) if len(values) else 0.0


def write_values(out: str, rows: list[Any], *, ended: int = 0) -> None:
    """One sample as an array of one axis, several as (samples, length), shorter ones filled up with NaN, or -1 for integers; `ended` of
    them ended before they were as long as asked for.

    Raises:
        OSError: it cannot be written.
    """
    import numpy as np

    from ..heads.files import replace_file

    length = max(map(len, rows))
    kind = rows[0].dtype
    filler = -1 if kind.kind == "i" else np.nan
    table = np.full((len(rows), length), filler, dtype=kind)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values

    def save(file: Path) -> None:
        with file.open("wb") as opened:  # np.save would put .npy after the temporary name
            np.save(opened, table if len(rows) > 1 else table[0])

    replace_file(Path(out).expanduser(), save)
    shape = " x ".join(map(str, table.shape)) if len(rows) > 1 else str(length)
    early = f"; {ended:,} of {len(rows):,} {'row' if len(rows) == 1 else 'rows'} ended early" if ended else ""
    notify(f"wrote       {out}: {shape} {kind.name}{early}\n")
