"""`subq compare`: which model serves given data, at a given length, on this machine."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..comparison.adding import added, forget
from ..comparison.comparing import Comparing
from ..comparison.display import Display
from ..comparison.folder import choose_folder, discard, remove_comparison, resumed
from ..comparison.options import CompareOptions, resolved, training_options
from ..comparison.results import Comparison, load
from ..comparison.run import dry_run
from ..comparison.run import run as run_comparison
from ..comparison.workers import WorkError
from ..training.display import make_display
from ..training.run_folder import RunFolder
from .options import parse
from .text_io import OutputError, output_width

GROUPS = {
    "data": (
        "data", "validation_data", "text", "label", "target", "quotes", "skip_bad_rows", "binary", "headers", "task", "task_options",
        "tokenizer",
    ),
    "integers and numbers": ("tokens", "bins", "binning", "difference", "column", "dtype"),
    "models": ("models", "model", "causal", "length"),
    "conditions": ("equal", "parameters", "budget", "seeds", "rates", "batch_size", "longest", "threads"),
    "folder": ("out", "overwrite", "resume", "add_model", "against"),
    "output": ("quiet", "json", "dry_run"),
}  # fmt: skip
EXAMPLES = """\
examples:
  subq compare                                            all models on Python's standard library, ten minutes
  subq compare --data my/texts --length 4096 --budget 20m
  subq compare --data my/texts --models performer,linformer,transformer --equal tokens --seeds 5
  subq compare --data reviews.csv --label stars           classifiers
  subq compare --data pairs.jsonl --text german --target english
  subq compare --task recall --length 256                 a synthetic task
  subq compare --model my_model.py:build --models performer,transformer
  subq compare --resume comparisons/compare-1             go on with one that was stopped
  subq compare --resume comparisons/compare-1 --add_model gated_linear
  subq report comparisons/compare-1                       draw its page again
"""


def run(argv: Sequence[str]) -> int:
    given = parse(CompareOptions, argv, verb="compare", examples=EXAMPLES, groups=GROUPS)
    given.check()
    display = make_display(quiet=given.quiet, as_json=given.json)
    before: Comparison | None = None
    if given.resume is not None:
        _check_alone(given)
        folder, before, options = resumed(given.resume)
        options = dataclasses.replace(options, threads=given.threads or options.threads)
        if given.add_model is not None:
            options = added(options, given.add_model, before)
            options.check()
    else:
        from ..training.plan import check_sources

        options = resolved(given)
        check_sources(training_options(options))
        folder = choose_folder(options)
    other = None if given.against is None else load(Path(given.against).expanduser())
    if before is not None and not before.interrupted and given.add_model is None:
        display.say(f"finished    the comparison in {folder} is complete; --add_model adds to it")
        _draw(before, folder, other)
        if other is not None:
            display.report("finished", _closing(before, folder, other), folder=str(folder), report=str(folder / "report.html"))
        return 0
    words = ["subq", "compare", *argv] if before is None else before.command
    shown = Display(display, width=output_width())
    with _terminated() as received:
        try:
            if given.dry_run:
                dry_run(Comparing(options, None, shown))
                return 0
            comparison = _compare(options, folder, shown, before, words, other, again=given.add_model or "")
        except KeyboardInterrupt:
            display.say(f"stopped     continue with: subq compare --resume {folder}")
            return 128 + (received[0] if received else signal.SIGINT)
        except WorkError as error:
            raise OutputError(str(error)) from error
    display.report("finished", _closing(comparison, folder, other), folder=str(folder), report=str(folder / "report.html"))
    return 0


def _compare(
    options: CompareOptions,
    folder: Path,
    display: Display,
    before: Comparison | None,
    words: list[str],
    other: Comparison | None,
    *,
    again: str,
) -> Comparison:
    """The comparison, begun or gone on with; entries named `again` that were left out or failed are tried once more."""
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).claimed():
        if before is None:
            remove_comparison(folder)
        else:
            forget(before, again, folder)

        def draw(comparison: Comparison, folder: Path) -> None:
            _draw(comparison, folder, other)

        made = Comparing(options, folder, display, comparison=before, command=words, after=draw)
        try:
            return run_comparison(made)
        except ValueError:
            if before is None and "conditions" not in made.comparison.settings:  # what would be gone on with fails as it did
                discard(folder)
            raise


def _draw(comparison: Comparison, folder: Path, other: Comparison | None) -> None:
    """The page beside the results, as far as it can be drawn: results that are there are worth more than a page of them."""
    from ..comparison.against import against
    from ..comparison.report.write import write_report

    if comparison.trials:
        write_report(comparison, folder, against=None if other is None else against(comparison, other))


def _closing(comparison: Comparison, folder: Path, other: Comparison | None) -> str:
    """The verdict, and where the page is."""
    from ..comparison.against import against
    from ..comparison.terminal import lines

    said = lines(comparison, width=output_width(), against=None if other is None else against(comparison, other))
    return "\n".join(["", *said, "", f"report      {folder / 'report.html'}"])


def _check_alone(given: CompareOptions) -> None:
    """Raises ValueError where a comparison that goes on is asked to be another."""
    free = ("resume", "add_model", "against", "threads", "quiet", "json")
    for each in dataclasses.fields(given):
        usual = each.default if each.default is not dataclasses.MISSING else {}
        if each.name not in free and getattr(given, each.name) != usual:
            raise ValueError(f"{each.name} is decided by the comparison that --resume goes on with: leave it out, or begin another")


@contextmanager
def _terminated() -> Iterator[list[int]]:
    """Within it SIGTERM interrupts as Ctrl-C does; the list holds its number then."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
