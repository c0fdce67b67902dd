"""`subq evaluate`: how well a trained model predicts a text of any length, or labelled rows."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..training.outputs import check_file, check_outside
from .options import parse
from .text_io import OutputError, print_text

if TYPE_CHECKING:
    from ..evaluation.trained import Material, Trained

MARK = "subq evaluate"  # in a drawing, by which it is known
USUAL_CONTEXT = 512  # of a saved model that does not say how it was trained
EXAMPLES = """\
examples:
  subq evaluate runs/performer-1                        on the validation side of what it was trained on
  subq evaluate runs/performer-1 --data book.txt        on another text, in the memory of a piece of it
  subq evaluate runs/performer-1 --context 256          in windows, as training validates
  subq evaluate runs/performer-1 --data book.txt --format json --out score.json --by_position loss.svg
  subq evaluate runs/reviews --data more_reviews.csv    a classifier: accuracy and confusion matrix
  cat book.txt | subq evaluate runs/performer-1 --data -
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure a trained model: bits per byte, perplexity, accuracy, and how they depend on the tokens before."""

    run: str
    """Run folder, or any folder that save_pretrained or subq convert wrote."""
    data: str | None = None
    """File, folder, glob pattern, or - for standard input, all of which is measured. Default: the validation side of what the
    model was trained on."""
    text: str | None = None
    """Column or field that holds the text, where the data has columns. Default: as in training."""
    label: str | None = None
    """Column with the class of each row, for classifiers. Default: as in training."""
    target: str | None = None
    """Column with the text to be written, for encoder-decoders. Default: as in training."""
    quotes: Literal["auto", "double", "none"] | None = None
    """A quotation mark in CSV and TSV: one that opens a cell (double), or a character (none). Default: as in training."""
    skip_bad_rows: bool | None = None
    """Pass over rows that cannot be used, and count them. Default: as in training."""
    binary: bool | None = None
    """Read every file as its bytes as they are, NUL bytes too. Default: as in training."""
    tokenizer: str | None = None
    """A tokenizer.json or a folder that has one. Default: the model's own."""
    reset: Literal["auto", "documents", "never", "windows"] = "auto"
    """When the state begins anew: at each document, never, or with each window. auto: documents for models with a state of constant
    size, windows for the others."""
    context: int | None = None
    """Tokens in a window; sets reset to windows. Default for windows: as in training."""
    batch_size: int = 8
    """Windows, rows or short documents side by side."""
    max_tokens: int | None = None
    """Measure only so many tokens, from the beginning."""
    seed: int = 0
    """Of which places are masked together, for masked models."""
    format: Literal["text", "json"] = "text"
    """What to print."""
    out: str | None = None
    """Also write the JSON to this file."""
    by_position: str | None = None
    """Also draw the loss against the tokens before, into this SVG file."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or a file that cannot be written."""
        for name, value, least in (
            ("context", self.context, 2),
            ("batch_size", self.batch_size, 1),
            ("max_tokens", self.max_tokens, 2),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be at most 2**63 - 1, got {self.seed}")
        if self.context is not None and self.reset not in ("auto", "windows"):
            raise ValueError(f"context is for --reset windows, got --reset {self.reset}")
        for name, path in (("out", self.out), ("by_position", self.by_position)):
            if path is not None:
                _check_file(name, path)
                check_outside(name, Path(path), self.data)
        if self.out is not None and self.by_position is not None and Path(self.out).absolute() == Path(self.by_position).absolute():
            raise ValueError(f"out and by_position are both {self.out}; name two files")


def _check_file(name: str, path: str) -> None:
    """Raises ValueError for a file that cannot be written, or would be lost though it is not of `subq evaluate`."""
    place = Path(path).expanduser()
    check_file(name, place)
    if name == "by_position" and place.suffix != ".svg":
        raise ValueError(f"{name} must name an .svg file, got {path!r}")
    if not place.is_file() or place.stat().st_size == 0:
        return
    content = place.read_bytes()
    ours = MARK.encode() in content[:4000] if name == "by_position" else _is_score(content)
    if not ours:
        kind = "drawing" if name == "by_position" else "score"
        raise ValueError(f"{name}: {place} is no {kind} that subq evaluate wrote, and would be lost; name another file, or move it")


def _is_score(content: bytes) -> bool:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"run", "model", "data", "score"} <= set(found)


def run(argv: Sequence[str]) -> int:
    options = parse(EvaluateOptions, argv, verb="evaluate", examples=EXAMPLES, positional="run")
    options.check()
    from ..evaluation.trained import load_trained

    trained = load_trained(options.run)
    _refuse_unfit(options, trained)
    material, score = _measure(options, trained)
    report = {
        "run": str(trained.folder),
        "model": trained.describe(),
        "data": {"name": material.name, "side": material.side, "digest": material.digest, material.unit: material.size},
        "notes": material.notes,
        "score": dataclasses.asdict(score),
    }
    written = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    printed = False
    try:
        print_text(written if options.format == "json" else "\n".join(_lines(trained, material, score)) + "\n")
        printed = True
    finally:  # a score that nobody could read is kept in the files asked for
        _write(options, written, trained, score, printed=printed)
    return 0


def _measure(options: EvaluateOptions, trained: Trained) -> tuple[Material, Any]:
    """What is measured on, and the score."""
    from ..evaluation.labelled import evaluate_classes, evaluate_pairs
    from ..evaluation.score import evaluate_items, evaluate_text
    from ..evaluation.trained import WAYS, rows_material, task_material, text_material, ways_to_read

    kind = type(trained.model).__name__
    own = trained.options
    with _progress() as show:
        if options.data is None and own.get("task"):
            material = task_material(trained, batch_size=options.batch_size)
            assert material.batches is not None
            rows = _rows_shown(show, material)
            if kind == "SequenceClassifier":
                return material, evaluate_classes(trained.model, material.batches(), labels=material.labels, progress=rows)
            return material, evaluate_items(trained.model, material.batches(), progress=rows)
        rows_wanted = kind in ("SequenceClassifier", "EncoderDecoder")
        ways = ways_to_read(trained, options.data, rows=rows_wanted, **{name: getattr(options, name) for name in WAYS})
        if rows_wanted:
            name = "label" if kind == "SequenceClassifier" else "target"
            column = getattr(options, name) or own.get(name)
            if column is None:
                raise ValueError(f"{name}: the run does not say which column holds the {name}; give --{name} COLUMN")
            columns = {"label": None, "target": None, name: column}
            material = rows_material(
                trained, options.data, ways=ways, tokenizer=options.tokenizer, batch_size=options.batch_size, progress=show, **columns
            )
            assert material.batches is not None
            rows = _rows_shown(show, material)
            if kind == "SequenceClassifier":
                return material, evaluate_classes(trained.model, material.batches(), labels=material.labels, progress=rows)
            return material, evaluate_pairs(trained.model, material.batches(), progress=rows)
        material = text_material(trained, options.data, ways=ways, tokenizer=options.tokenizer, progress=show)
        material = _cut(material, options.max_tokens)
        assert material.text is not None and material.tokenizer is not None
        score = evaluate_text(
            trained.model,
            material.text,
            context=options.context,
            usual_context=own.get("context") or USUAL_CONTEXT,
            reset=None if options.reset == "auto" else options.reset,
            start_token=_start_token(trained, material),
            sizes=material.tokenizer.byte_lengths(),
            batch_size=options.batch_size,
            seed=options.seed,
            progress=show,
        )
        return material, score


def _start_token(trained: Trained, material: Material) -> int | None:
    """What stands between documents, where the model knows it."""
    assert material.tokenizer is not None
    end = material.tokenizer.eos_token
    return end if end < getattr(trained.model, "vocab_size", 0) else None


def _cut(material: Material, max_tokens: int | None) -> Material:
    assert material.text is not None
    if max_tokens is None or max_tokens >= len(material.text):
        return material
    side = f"the first {max_tokens:,} tokens of {'its ' if material.side != 'all of it' else ''}{material.side.replace('all of ', '')}"
    return dataclasses.replace(material, text=material.text.cut(max_tokens), size=max_tokens, side=side)


def _refuse_unfit(options: EvaluateOptions, trained: Trained) -> None:
    """Options that mean nothing for this model are not passed over in silence.

    Raises:
        ValueError: there is one.
    """
    kind = type(trained.model).__name__
    task = options.data is None and trained.options.get("task")
    rows = kind in ("SequenceClassifier", "EncoderDecoder")
    if options.data is not None and trained.options.get("task"):
        raise ValueError(f"data: {trained.folder} learned the task {trained.options['task']}, whose tokens are no text; leave --data out")
    for name in ("reset", "context", "max_tokens", "by_position"):
        if getattr(options, name) not in (None, "auto") and (rows or (task and name != "by_position")):
            raise ValueError(f"{name} is for texts, and this is a {'task' if task else 'model of rows'}; leave it out")
    if task:
        for name in ("text", "label", "target", "quotes", "skip_bad_rows", "binary", "tokenizer"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is for data, and {trained.folder} was trained on a task; leave it out")
    for name, wanted in (("label", "SequenceClassifier"), ("target", "EncoderDecoder")):
        if getattr(options, name) is not None and kind != wanted:
            raise ValueError(f"{name} is for a {wanted}, and the model in {trained.folder} is a {kind}; leave it out")
    if options.binary and rows:
        raise ValueError("binary is for texts, and this is a model of rows; leave it out")


def _lines(trained: Trained, material: Material, score: Any) -> Iterator[str]:
    from ..evaluation.report import class_lines, pair_lines, position_lines, text_lines

    size = f"{material.size:,} {material.unit}"
    yield from _wrapped("model", f"{trained.folder} ({trained.describe()})")
    yield from _wrapped("data", f"{material.name}, {material.side}: {size}" if material.unit != "items" else f"{size} of {material.name}")
    for note in material.notes:
        yield from _wrapped("note", note)
    kind = type(score).__name__
    if kind == "ClassScore":
        yield from class_lines(score)
    elif kind == "PairScore":
        yield from pair_lines(score)
    else:
        yield from text_lines(score)
        yield ""
        yield from position_lines(score)


def _wrapped(name: str, text: str) -> list[str]:
    """Words are not broken: a long path may pass the margin."""
    indent = " " * 12
    return textwrap.wrap(
        text, 100, initial_indent=name.ljust(12), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _write(options: EvaluateOptions, written: str, trained: Trained, score: Any, *, printed: bool) -> None:
    """The files asked for; what becomes of one does not touch the other.

    Raises:
        OutputError: a file cannot be written; says where the score is.
    """
    from ..evaluation.report import plot_positions
    from ..models.saving import replace_file

    failed, done = [], ["the score was printed"] if printed else []
    cause: OSError | None = None
    for name, path in (("out", options.out), ("by_position", options.by_position)):
        if path is None:
            continue
        place = Path(path).expanduser()
        try:
            if name == "out":
                replace_file(place, lambda file: file.write_text(written, encoding="utf-8"))
            else:
                plot_positions(place, score, title=f"{trained.folder.name}: {trained.describe()}", mark=MARK)
            done.append(f"{path} was written")
        except OSError as error:
            cause = error
            failed.append(f"{name}: cannot write {path}: {error.strerror or error}")
    if failed:
        raise OutputError(f"{'; '.join(failed)}; {', '.join([*done, 'files there stay as they were'])}") from cause


def _rows_shown(show: Callable[[int, int | None], None] | None, material: Material) -> Callable[[int], None] | None:
    return None if show is None else lambda done: show(done, material.size)


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on the terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
