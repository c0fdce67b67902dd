"""`subq predict`: the classes of new rows from a classifier, or their targets from an encoder-decoder, as JSON lines or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.errors import an
from ..core.plain_json import to_json
from ..training.outputs import check_file, check_outside
from ..training.status import status
from .options import parse
from .text_io import Output, notify

if TYPE_CHECKING:
    from ..data.new_rows import NewRow
    from ..data.passed_over import PassedOver
    from ..evaluation.predict import Prediction
    from ..evaluation.trained import Trained

TABLES = {".csv": ",", ".tsv": "\t"}  # what separates columns in files of these names
SUFFIXES = (".jsonl", ".ndjson", ".json", *TABLES)
TARGET_TOKENS = 400  # where the run does not say how long its targets were
PREDICTED, PROBABILITY, PROBABILITIES, LOG_PROB = "predicted", "probability", "probabilities", "log_prob"
EXAMPLES = """\
examples:
  subq predict runs/reviews --data new.csv                          JSON lines, one for each row, in the order of the rows
  subq predict runs/reviews --data new.csv --carry id,date --out classes.csv
  subq predict runs/reviews --data 'new/*.parquet' --text body --carry '*' --top_k 3
  subq predict runs/translator --data sentences.jsonl --out targets.jsonl
  cat new.jsonl | subq predict runs/reviews --data -
"""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict the classes of new rows, which need no label, or their target texts. Rows are read and written as a stream."""

    run: str
    """Run folder of a classifier or an encoder-decoder, or any folder that save_pretrained wrote."""
    data: str
    """File, folder, glob pattern, or - for standard input, with rows as subq train reads them: .csv .tsv .jsonl .json .parquet, also
    compressed. Standard input may be JSON lines, CSV, or TSV (if its header has a tab)."""
    text: str | None = None
    """Column or field that holds the text. Default: as in training."""
    carry: str | None = None
    """Columns or fields of the input to copy to the output before the prediction, comma-separated; * for all."""
    top_k: int | None = None
    """Write the probabilities of the k most likely classes only. Default: all classes."""
    max_new_tokens: int | None = None
    """For an encoder-decoder: most tokens in a target. Default: the longest in training."""
    format: Literal["json", "csv"] | None = None
    """Output format: JSON lines or CSV. Default: CSV if --out names a .csv file, the same with tabs if a .tsv file, else JSON lines."""
    out: str | None = None
    """Output file (.jsonl, .ndjson, .json, .csv or .tsv), written completely or not at all. Default: standard output."""
    overwrite: bool = False
    """Replace the file that --out names."""
    batch_size: int = 32
    """Rows in a batch, of about equal length."""
    threads: int | None = None
    """Number of threads. Default: one per core (PyTorch's own choice); under torchrun, a share of the cores. At most 8 per core
    (100 if that is more)."""
    quiet: bool = False
    """Print nothing but errors on standard error: not what was skipped or cut."""
    quotes: Literal["auto", "double", "none"] | None = None
    """Quotation marks in CSV and TSV: they enclose cells (double), or are ordinary characters (none). Default: as in training."""
    skip_bad_rows: bool | None = None
    """Skip and count rows that cannot be used. Default: as in training."""
    tokenizer: str | None = None
    """A tokenizer.json or a folder that has one. Default: the model's own."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or a file that cannot be written or would be lost."""
        for name in ("batch_size", "threads", "top_k", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.carry is not None and not all(self.carried):
            raise ValueError(f"carry must be comma-separated names of columns, or *, got {self.carry!r}")
        if self.overwrite and self.out is None:
            raise ValueError("overwrite is for --out: name a file")
        if self.out is None:
            return
        place = Path(self.out).expanduser()
        if place.suffix.lower() not in SUFFIXES:
            raise ValueError(f"out must name a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, got {self.out!r}")
        check_file("out", place)
        check_outside("out", place, self.data)
        if place.exists() and Path(self.data).expanduser().exists() and place.samefile(Path(self.data).expanduser()):
            raise ValueError(f"out: {place} is the data; name another file")
        if place.exists() and not self.overwrite:
            raise ValueError(f"out: {place} exists; name another file, or give --overwrite to replace it")

    @property
    def carried(self) -> tuple[str, ...]:
        """The names in `carry`."""
        return () if self.carry is None else tuple(name.strip() for name in self.carry.split(","))

    @property
    def table(self) -> bool:
        """Whether to write CSV."""
        return self.format == "csv" or (self.format is None and self._suffix in TABLES)

    @property
    def separator(self) -> str:
        """What separates the columns of a table."""
        return TABLES.get(self._suffix, ",")

    @property
    def _suffix(self) -> str:
        return Path(self.out or "").suffix.lower()


def run(argv: Sequence[str]) -> int:
    options = parse(PredictOptions, argv, verb="predict", examples=EXAMPLES, positional="run")
    options.check()
    from ..evaluation.saved import find_saved, read_options
    from ..heads.files import replace_file

    saved = find_saved(options.run)
    _check_model(options, saved.folder, saved.head, read_options(saved.folder / "run.yaml"))
    with status("loading the model", hidden=options.quiet) as line:
        from ..core.threads import use_threads
        from ..evaluation.trained import load_trained

        use_threads(options.threads)
        trained = load_trained(options.run)
        line.show("reading the data")
        predicted = _Predicted(options, trained)
    if options.out is None:
        output = Output()
        predicted.write(output.write, lambda: output.closed)
    else:
        replace_file(Path(options.out).expanduser(), lambda file: _to_file(file, predicted))
    if not options.quiet:
        predicted.tell()
    return 0


def _to_file(file: Path, predicted: _Predicted) -> None:
    with file.open("wb") as opened:
        predicted.write(opened.write, lambda: False)


class _Predicted:
    """The rows of the data with what the model says of them."""

    def __init__(self, options: PredictOptions, trained: Trained) -> None:
        from ..data.finding import find_source
        from ..data.ways import ROW_WAYS, WAYS
        from ..evaluation.material import known_labels, ways_to_read
        from ..evaluation.vocabulary import check_tokenizer, model_tokenizer

        self.options, self.trained, self.model = options, trained, trained.model
        self.tokenizer = model_tokenizer(trained.folder, tokenizer=options.tokenizer)
        check_tokenizer(trained, self.tokenizer)
        given = {name: getattr(options, name, None) for name in WAYS}
        ways = ways_to_read(trained, options.data, rows=True, **given)
        self.source = find_source(options.data, rows=True, **{name: ways[name] for name in ROW_WAYS})
        self.passed: PassedOver = self.source.passed()
        self.classes: list[str] | None = None
        if hasattr(self.model, "num_classes"):
            self.classes = known_labels(trained) or [str(number) for number in range(self.model.num_classes)]
        self.rows = self.without_text = self.cut = 0

    def write(self, write: Callable[[bytes], Any], closed: Callable[[], bool]) -> None:
        """Every row, a pool of them at a time, until the reader has gone.

        Raises:
            ValueError: rows that cannot be read.
        """
        lines: Callable[[list[dict[str, Any]]], str] = _Table(self.options.separator) if self.options.table else _json_lines
        for pool in self._pools():
            write(lines([self._line(row, prediction) for row, prediction in pool]).encode("utf-8", errors="replace"))
            if closed():
                return
        if not self.rows:
            raise ValueError(f"data: {self.source.name} has no rows{self.passed.because()}")

    def tell(self) -> None:
        """What a reader of the output should know, on standard error."""
        said = [
            self.passed.describe(),
            f"without text, so that nothing is predicted: {self.without_text:,} of {self.rows:,} rows" if self.without_text else "",
            f"cut to {self._limit():,} tokens, the most that the model reads: {self.cut:,} of {self.rows:,} rows" if self.cut else "",
            f"wrote {self.options.out}: {self.rows:,} rows" if self.options.out is not None else "",
        ]
        notify("".join(f"{line}\n" for line in said if line))

    def _pools(self) -> Iterator[list[tuple[NewRow, Prediction | None]]]:
        from ..data.new_rows import read_new_rows
        from ..evaluation.predict import classifying, predict_rows, translating

        if self.classes is not None:
            predict = classifying(self.model)
        else:
            first, most = self._target()
            predict = translating(self.model, self.tokenizer, start_token=first, max_new_tokens=most)
        rows = read_new_rows(self.source, self.passed, carry=self.options.carried)
        batch_size = self.options.batch_size
        return predict_rows(self.model, self.tokenizer, rows, predict, batch_size=batch_size, max_length=self._limit())

    def _target(self) -> tuple[int, int]:
        """The token that begins a target, and how many may follow."""
        from .text_generation import target_start
        from .text_model import TextModel

        first = target_start(TextModel(self.trained.folder, self.model, self.tokenizer, "pairs"))
        limit = self.model.decoder.max_length
        most = self.options.max_new_tokens or self.trained.options.get("context") or TARGET_TOKENS
        return first, most if limit is None else max(1, min(most, limit))

    def _limit(self) -> int | None:
        from ..evaluation.predict import row_limit

        return row_limit(self.model)

    def _line(self, row: NewRow, prediction: Prediction | None) -> dict[str, Any]:
        self.rows += 1
        self.without_text += prediction is None
        self.cut += prediction is not None and prediction.cut
        found = self._target_of(prediction) if self.classes is None else self._classes_of(prediction, self.classes)
        taken = [name for name in row.carried if name in found]
        if taken:
            hint = f"rename it, or name with --carry others than {taken[0]}"
            raise ValueError(f"carry: the field {taken[0]!r} of {row.where} has the name of what is predicted; {hint}")
        return {**row.carried, **found}

    def _target_of(self, prediction: Prediction | None) -> dict[str, Any]:
        if prediction is None or prediction.log_prob is None:
            return {PREDICTED: None, LOG_PROB: None}
        return {PREDICTED: prediction.target, LOG_PROB: round(prediction.log_prob, 6)}

    def _classes_of(self, prediction: Prediction | None, classes: list[str]) -> dict[str, Any]:
        shares = [] if prediction is None else prediction.probabilities or []
        order = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)
        best = [(classes[index], round(shares[index], 6)) for index in order]
        first, share = best[0] if best else (None, None)
        found: dict[str, Any] = {PREDICTED: first, PROBABILITY: share}
        if not self.options.table:
            return {**found, PROBABILITIES: dict(best[: self.options.top_k]) if best else None}
        if self.options.top_k is None:
            known = dict(best)
            return found | {f"{PROBABILITY}_{name}": known.get(name) for name in classes}
        for rank in range(2, min(self.options.top_k, len(classes)) + 1):
            name, share = best[rank - 1] if best else (None, None)
            found |= {f"{PREDICTED}_{rank}": name, f"{PROBABILITY}_{rank}": share}
        return found


def _check_model(options: PredictOptions, folder: Path, kind: str, own: dict[str, Any]) -> None:
    """What can be told before PyTorch is loaded. `own` are the options of the run in `folder`.

    Raises:
        ValueError: the model predicts nothing of rows, an option means nothing for it, or something is not there.
    """
    from ..data.finding import fitting
    from ..data.tokenizers.loading import find_tokenizer

    if own.get("task"):
        raise ValueError(f"run: {folder} learned the task {own['task']}, whose tokens are not text of rows")
    if kind not in ("SequenceClassifier", "EncoderDecoder"):
        wanted = "classes and targets come from a SequenceClassifier or an EncoderDecoder"
        raise ValueError(f"run: the model in {folder} is {an(kind)}, and {wanted}; use subq generate {folder}")
    for name, wanted in (("top_k", "SequenceClassifier"), ("max_new_tokens", "EncoderDecoder")):
        if getattr(options, name) is not None and kind != wanted:
            raise ValueError(f"{name} is for {an(wanted)}, and the model in {folder} is {an(kind)}; leave it out")
    if options.data != "-":
        fitting(options.data, rows=True)
    if options.tokenizer is not None:
        find_tokenizer(options.tokenizer)


def _json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(to_json(row, ensure_ascii=False, default=str) + "\n" for row in rows)


class _Table:
    """Rows as CSV, below a header that the first of them gives."""

    def __init__(self, separator: str) -> None:
        self.how: Any = {"delimiter": separator, "lineterminator": "\n"}
        self.columns: list[str] = []

    def __call__(self, rows: list[dict[str, Any]]) -> str:
        written = io.StringIO()
        if not self.columns:
            self.columns = list(rows[0])
            csv.writer(written, **self.how).writerow(self.columns)
        writer = csv.DictWriter(written, self.columns, **self.how)
        for row in rows:
            more = [name for name in row if name not in self.columns]
            if more:
                raise ValueError(f"carry: a row has the field {more[0]!r}, and the rows before it do not: name fields, or write JSON lines")
            writer.writerow({name: to_json(value) if isinstance(value, list | dict) else value for name, value in row.items()})
        return written.getvalue()
