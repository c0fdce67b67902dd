"""`subq evaluate`: how well a trained model predicts a text of any length, or labelled rows."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import an
from ..core.plain_json import to_json
from ..training.status import status
from .evaluate_options import MARK, EvaluateOptions
from .options import parse
from .text_io import OutputError, print_text

if TYPE_CHECKING:
    from ..evaluation.material import Material
    from ..evaluation.trained import Trained

USUAL_CONTEXT = 512  # of a saved model that does not say how it was trained
EXAMPLES = """\
examples:
  subq evaluate runs/performer-1                        on the validation side of what it was trained on
  subq evaluate runs/performer-1 --data book.txt        on another text, in the memory of a piece of it
  subq evaluate runs/performer-1 --context 256          in windows, as training validates
  subq evaluate runs/performer-1 --data book.txt --format json --out score.json --by_position loss.svg
  subq evaluate runs/performer-1 --quantize int8        what weights of 8 bits cost
  subq evaluate runs/reviews --data more_reviews.csv    a classifier: accuracy and confusion matrix
  subq evaluate runs/prices --data later.csv            a series: errors of the one-step forecast, in the units of the data
  cat book.txt | subq evaluate runs/performer-1 --data -
"""


def run(argv: Sequence[str]) -> int:
    options = parse(EvaluateOptions, argv, verb="evaluate", examples=EXAMPLES, positional="run")
    options.check()
    from ..evaluation.saved import find_saved, read_options

    saved = find_saved(options.run)
    _refuse_unfit(options, saved.folder, saved.head, read_options(saved.folder / "run.yaml"))

    with status("loading the model", hidden=options.quiet):
        from ..core.threads import use_threads
        from ..evaluation.trained import load_trained

        use_threads(options.threads)
        trained = load_trained(options.run, quantize=options.quantize)
    material, score = _measure(options, trained)
    report = {
        "run": str(trained.folder),
        "model": trained.describe(),
        "data": {"name": material.name, "side": material.side, "digest": material.digest, material.unit: material.size},
        "notes": material.notes,
        "score": dataclasses.asdict(score),
    }
    written = to_json(report, indent=2, ensure_ascii=False) + "\n"
    printed = False
    try:
        if not options.quiet:
            print_text(_shown(options, report, written, trained, material, score))
            printed = True
    finally:  # a score that nobody could read is kept in the files asked for
        _write(options, written, trained, score, printed=printed)
    return 0


def _shown(options: EvaluateOptions, report: dict[str, Any], written: str, trained: Trained, material: Material, score: Any) -> str:
    """What is printed."""
    if options.json:
        return to_json(report, ensure_ascii=False) + "\n"
    return written if options.format == "json" else "\n".join(_lines(trained, material, score)) + "\n"


def _measure(options: EvaluateOptions, trained: Trained) -> tuple[Material, Any]:
    """What is measured on, and the score."""
    from ..data.ways import WAYS
    from ..evaluation.labelled import evaluate_classes, evaluate_pairs
    from ..evaluation.material import rows_material, task_material, text_material, ways_to_read
    from ..evaluation.score import evaluate_items, evaluate_text

    kind = type(trained.model).__name__
    own = trained.options
    with progress_bar(hidden=options.quiet) as show:
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
        material = text_material(trained, options.data, ways=ways, tokenizer=options.tokenizer, tokens=options.tokens, progress=show)
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
        return material, _with_forecast(options, trained, material, score)


def _with_forecast(options: EvaluateOptions, trained: Trained, material: Material, score: Any) -> Any:
    """The score of a series with the errors of its forecasts, where the model makes any."""
    from ..data.binning import Binned
    from ..evaluation.forecast import forecast_errors

    assert material.text is not None
    series: list[Any] = [part for part in material.text.parts if isinstance(part, Binned)]
    if not series or not trained.model.config.causal:
        return score
    context = options.context or trained.options.get("context") or USUAL_CONTEXT
    limits = [limit for limit in (getattr(trained.model, "max_length", None),) if limit is not None]
    found = forecast_errors(trained.model, series, context=min([context, *limits]), batch_size=options.batch_size)
    return dataclasses.replace(score, forecast=found)


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


def _refuse_unfit(options: EvaluateOptions, folder: Path, kind: str, own: dict[str, Any]) -> None:
    """Options that mean nothing for this model are not passed over in silence.

    Raises:
        ValueError: there is one.
    """
    task = options.data is None and own.get("task")
    rows = kind in ("SequenceClassifier", "EncoderDecoder")
    if options.data is not None and own.get("task"):
        raise ValueError(f"data: {folder} learned the task {own['task']}, whose tokens are not text; leave --data out")
    for name in ("reset", "context", "max_tokens", "by_position"):
        if getattr(options, name) not in (None, "auto") and (rows or (task and name != "by_position")):
            raise ValueError(f"{name} is for texts, and this is a {'task' if task else 'model of rows'}; leave it out")
    if task:
        for name in ("text", "label", "target", "quotes", "skip_bad_rows", "binary", "tokenizer", "headers", "tokens", "column", "dtype"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is for data, and {folder} was trained on a task; leave it out")
    for name, wanted in (("label", "SequenceClassifier"), ("target", "EncoderDecoder")):
        if getattr(options, name) is not None and kind != wanted:
            raise ValueError(f"{name} is for {an(wanted)}, and the model in {folder} is {an(kind)}; leave it out")
    for name in ("binary", "headers", "tokens", "column", "dtype") if rows else ():
        if getattr(options, name) is not None:
            raise ValueError(f"{name} is for texts, integers and numbers, and this is a model of rows; leave it out")
    if options.data is None and not own:
        raise ValueError(f"data: {folder} does not say what it was trained on (it has no run.yaml); give --data PATH")
    if options.data not in (None, "-"):
        from ..data.finding import fitting

        fitting(options.data, rows=rows)  # says what is not there
    if options.tokenizer is not None:
        from ..data.tokenizers.loading import find_tokenizer

        find_tokenizer(options.tokenizer)


def _lines(trained: Trained, material: Material, score: Any) -> Iterator[str]:
    from ..evaluation.report import class_lines, forecast_lines, pair_lines, position_lines, text_lines

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
        if score.forecast is not None:
            yield from forecast_lines(score.forecast)
        yield ""
        yield from position_lines(score)


def _wrapped(name: str, text: str) -> list[str]:
    """Words are not broken: a long path may pass the margin."""
    indent = " " * 12
    return textwrap.wrap(text, 100, initial_indent=name.ljust(12), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _write(options: EvaluateOptions, written: str, trained: Trained, score: Any, *, printed: bool) -> None:
    """The files asked for; what becomes of one does not touch the other.

    Raises:
        OutputError: a file cannot be written; says where the score is.
    """
    from ..evaluation.report import plot_positions
    from ..heads.files import replace_file

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
def progress_bar(*, hidden: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """A bar on the terminal; nothing in a pipe."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
