"""Results for people: a table in Markdown for a file, and one for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..evaluation.report import amount, size
from .cases import STREAMED
from .growth import crossovers, slopes
from .results import Result, Run, Side
from .targets import Verdict, judge
from .timing import median

if TYPE_CHECKING:
    from rich.table import Table

HEAD = ("case", "side", "time", "tokens/s", "peak memory", "of floor", "x ours")
RIGHT = 2  # columns from here on are numbers


def _freed(run: Run) -> str:
    how = run.settings.get("freed memory")
    return "" if how is None else f", freed memory {how}"


TITLE = "# What it costs"  # by which a table of ours is known


def markdown(run: Run) -> str:
    """The machine, every case with all its sides, and the targets."""
    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("packages", {}).items())
    if "kernels" in machine:
        versions += f"; C kernels: {machine['kernels']}"
    where = machine.get("gpu") if str(run.settings.get("device", "cpu")).startswith("cuda") else machine.get("processor")
    lines = [
        TITLE,
        "",
        f"{where}, {machine.get('cores')} cores, {machine.get('threads')} thread(s), {run.settings.get('dtype')}{_freed(run)}; Python "
        f"{machine.get('python')}; {versions}; revision {machine.get('revision') or 'unknown'}; {str(machine.get('date'))[:10]}.",
        "",
        _rates(run),
        "",
        "Times are medians of interleaved rounds. *x ours*: how many times as long as the first side for a token, the median of the "
        "rounds' ratios, and the smallest and largest. *Peak memory* is above the weights. *Of floor*: the least time that the matmuls "
        "or the bytes of our algorithm can take on this machine, over the time taken.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * RIGHT}{'---:|' * (len(HEAD) - RIGHT)}",
        *(f"| {' | '.join(row)} |" for result in run.results for row in rows(result)),
        "",
    ]
    verdicts = [verdict for verdict in judge(run) if verdict.value is not None]
    if verdicts:
        lines += ["## Targets", "", "| target | asked | measured | |", "|---|---:|---:|---|"]
        lines += [f"| {' | '.join(target_row(verdict))} |" for verdict in verdicts]
        lines.append("")
    return "\n".join([*lines, *_growth(run)])


def _growth(run: Run) -> list[str]:
    """How a training step grows, and where models overtake exact attention; nothing where less than three points were measured."""
    grown = {name: {side: f"{value:.2f}" for side, value in of_sides.items()} for name, of_sides in slopes(run).items()}
    slope = "Slope of log time against the log of what grows, by least squares: 1 is proportional."
    since = "From that many tokens in a sequence on, between two measured lengths."
    return [
        *_by_model("How a training step grows", slope, grown),
        *_by_model("Faster in training than exact attention", since, crossovers(run)),
    ]


def _by_model(title: str, text: str, columns: dict[str, dict[str, str]]) -> list[str]:
    """A table with a row for each model that any column has; nothing without columns."""
    if not columns:
        return []
    models = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [f"| {' | '.join([model, *(column.get(model, '') for column in columns.values())])} |" for model in models]
    return [f"## {title}", "", text, "", f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}", *rows, ""]


def _rates(run: Run) -> str:
    """The best that the machine showed in the whole run."""
    names = ("matmul", "linear", "copy", "unit")
    best = {name: max((result.rates.get(name) or 0.0 for result in run.results), default=0.0) for name in names}
    linear = f" (oneDNN's linear layer {best['linear'] / 1e9:,.0f})" if best["linear"] else ""
    text = f"At best {best['matmul'] / 1e9:,.0f} GFLOP/s of torch.mm{linear}, and {best['copy'] / 1e9:,.1f} GB/s copied (read and written)."
    if not best["unit"]:
        return text
    return f"{text} The C kernels multiply float32 on a matrix unit, here at {best['unit'] / 1e9:,.0f}: floors are made of PyTorch's rate."


def rows(result: Result) -> Iterator[tuple[str, ...]]:
    """A row for each side, under the columns of `HEAD`; one row for a case that was refused."""
    if result.refused:
        yield (result.case.name, f"refused: {result.refused}", *("",) * (len(HEAD) - RIGHT))
        return
    for index, side in enumerate(result.sides):
        name = result.case.name if index == 0 else ""
        if side.time is None:
            yield (name, f"{result.label(side)}: {side.note or 'not measured'}", *("",) * (len(HEAD) - RIGHT))
            continue
        rate = "" if side.per_token is None else amount(1 / side.per_token)
        share = "" if side.share_of_floor is None else f"{side.share_of_floor:.0%}"
        note = f" ({side.note})" if side.note else ""
        yield (name, result.label(side) + note, _time(result, side), rate, _memory(side), share, _ratio(result, side, index))


def target_row(verdict: Verdict) -> tuple[str, str, str, str]:
    """What is asked, the bound, the figure, and whether it is met: with the most that the floor allows, where it is not."""
    target = verdict.target
    bound = f"{'at most' if target.at_most else 'at least'} {target.write(target.bound)}"
    if target.write(target.bound).startswith("1/"):
        bound = f"at most {target.write(target.bound)}"
    measured = "-" if verdict.value is None else target.write(verdict.value)
    verb = {True: "met", False: "missed", None: "not measured"}[verdict.met]
    if verdict.reachable is not None:
        verb += f"; at the floor it would be {target.write(verdict.reachable)}"
    return target.text, bound, measured, verb


def result_table(results: list[Result], *, title: str | None = None) -> Table:
    """For a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 1))
    for index, name in enumerate(HEAD):
        table.add_column(name, justify="left" if index < RIGHT else "right", overflow="fold")
    for result in results:
        for row in rows(result):
            table.add_row(*map(escape, row), style="red" if result.refused else None)
    return table


def target_table(run: Run) -> Table | None:
    """The targets that were measured; None if there is none."""
    from rich.markup import escape
    from rich.table import Table

    verdicts = [verdict for verdict in judge(run) if verdict.value is not None]
    if not verdicts:
        return None
    table = Table(title="targets", title_justify="left", box=None, header_style="bold", padding=(0, 1))
    for index, name in enumerate(("target", "asked", "measured", "")):
        table.add_column(name, justify="right" if index in (1, 2) else "left", overflow="fold")
    for verdict in verdicts:
        table.add_row(*map(escape, target_row(verdict)), style=None if verdict.met else "red")
    return table


def seconds(value: float) -> str:
    """Three digits and a unit: `12.3 ms`."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1 or unit == "us":
            break
    shown = value * scale
    digits = 0 if shown >= 99.95 else 1 if shown >= 9.995 else 2
    return f"{shown:,.{digits}f} {unit}"


def _time(result: Result, side: Side) -> str:
    """Of a token where tokens are decoded, of a call otherwise."""
    assert side.time is not None
    if result.case.mode not in STREAMED or side.per_token is None:
        return seconds(side.time)
    return f"{seconds(side.per_token * result.case.batch)}/token"


def _memory(side: Side) -> str:
    if side.above_bytes is not None:
        return size(side.above_bytes)
    return "" if side.peak_bytes is None else f"{size(side.peak_bytes)} in all"


def _ratio(result: Result, side: Side, index: int) -> str:
    found: list[Any] = [] if index == 0 else result.ratios(side.name)
    if not found:
        return ""
    words = [f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}" for ratio in (median(found), min(found), max(found))]
    return f"{words[0]} ({words[1]} to {words[2]})" if len(found) > 1 else words[0]
