"""The page: everything of a comparison that its template shows, and the page as one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import shlex
from dataclasses import dataclass
from typing import Any

from ...benchmark.report import seconds
from ..against import Against, settings
from ..findings.crossings import QUANTITIES
from ..findings.fairness import scored_rows, unequal_parameters
from ..findings.missing import runs_done
from ..observed import tried, why_failed
from ..results import Comparison
from ..verdict import Verdict, judge
from ..wording import budget, clean, duration, label, reference, signed, value
from . import charts, length_charts, tables
from .drawing import Chart, svg
from .style import TEMPLATES, chart_rules, themes
from .tables import NONE, Table

GENERATOR = "subquadratic: subq compare"  # by which a page of ours is known
SAMPLE = 1500  # characters of a sample that are shown
ERROR = 6000  # of an error


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the page is made of."""

    comparison: Comparison
    verdict: Verdict
    pareto: list[Chart]
    equal: list[str]
    curves: list[Chart]
    context: list[Chart]
    lengths: list[Chart]
    rates: list[Chart]
    against: Against | None
    source: str = "results.json"
    """Where the numbers are, from the folder of the page."""

    @property
    def charts(self) -> list[Chart]:
        return [*self.pareto, *self.curves, *self.context, *self.lengths, *self.rates]


def material(comparison: Comparison, against: Against | None = None, *, source: str = "results.json") -> Material:
    """Sentences and charts of a comparison, finished or not; `source` is where the page finds its numbers."""
    pareto, equal = charts.pareto(comparison)
    rates = charts.rates(comparison)
    return Material(
        comparison=comparison,
        verdict=judge(comparison),
        pareto=pareto,
        equal=equal,
        curves=charts.curves(comparison),
        context=[chart for chart in (length_charts.positions(comparison), length_charts.cuts(comparison)) if chart is not None],
        lengths=length_charts.against_length(comparison),
        rates=[] if rates is None else [rates],
        against=against,
        source=source,
    )


def render(found: Material) -> str:
    """The page in HTML. What users named is escaped; what a page may not hold is replaced."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else clean(value),
    )
    environment.globals["svg"] = lambda chart: Markup(svg(chart))  # built as a tree: its texts are escaped
    environment.globals["numbers"] = tables.numbers
    style = "\n".join((themes(), chart_rules(), (TEMPLATES / "page.css").read_text(encoding="utf-8")))
    return environment.get_template("page.html").render(
        generator=GENERATOR,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_content(found),
    )


def _content(found: Material) -> dict[str, Any]:
    comparison = found.comparison
    return {
        "title": f"{len(tried(comparison))} models on {comparison.data.get('name', 'the data')}",
        "verdict": found.verdict,
        "found": found,
        "facts": _facts(comparison),
        "tables": {
            "results": tables.results(comparison),
            "pairs": tables.all_pairs(comparison),
            "context": tables.contexts(comparison),
            "growth": tables.growths(comparison),
            "overtaking": tables.overtaking(comparison, found.verdict.crossings),
            "rates": tables.rates(comparison),
            "runs": tables.runs(comparison),
        },
        "failures": _failures(comparison),
        "samples": _samples(comparison),
        "against": None if found.against is None else against_tables(found.against),
        "commands": _commands(comparison, found.source),
        "source": found.source,
        "made": _made(comparison),
    }


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """At a glance, under the title."""
    settings, machine = comparison.settings, comparison.machine
    asked, seeds = settings.get("parameters"), settings.get("seeds") or len({trial.seed for trial in comparison.trials})
    alike = isinstance(asked, int) and not unequal_parameters(comparison)
    words = [
        ("data", str(comparison.data.get("text") or comparison.data.get("name", ""))),
        ("length", f"{settings['length']:,} tokens" if settings.get("length") else ""),
        ("equal for all", ", ".join(filter(None, (budget(comparison), f"about {asked:,} parameters" if alike else "")))),
        ("not equal", "parameters" if not alike and isinstance(asked, int) else ""),
        ("scored on", scored_rows(comparison) or ""),
        ("runs", f"{runs_done(comparison)}, {seeds} seed{'s' * (seeds != 1)} a model"),
        ("machine", str(machine.get("gpu") or machine.get("processor") or "")),
        ("took", duration(comparison.seconds) if comparison.seconds else ""),
    ]
    return [(name, text) for name, text in words if text]


def _failures(comparison: Comparison) -> list[tuple[str, str]]:
    found = []
    for trial in comparison.trials:
        if error := why_failed(trial):
            where = f"{label(comparison, trial.entry)}, seed {trial.seed}, after {trial.steps:,} steps"
            found.append((where, error if len(error) <= ERROR else f"[...] {error[-ERROR:]}"))
    return found


def _samples(comparison: Comparison) -> list[tuple[str, str]]:
    """One of each entry, of its first seed."""
    found = []
    for name in tried(comparison):
        trial = next((trial for trial in comparison.done(name) if trial.sample), None)
        if trial is not None:
            text = trial.sample if len(trial.sample) <= SAMPLE else f"{trial.sample[:SAMPLE]} [...]"
            found.append((f"{label(comparison, name)}, seed {trial.seed}", text))
    return found


def _commands(comparison: Comparison, source: str) -> list[tuple[str, str]]:
    found = [("the whole comparison, anew", shlex.join(comparison.command))] if comparison.command else []
    here = source == "results.json"
    draw = "subq report ." if here else f"subq report {shlex.quote(source)} --out ."
    return [*found, (f"this page from {source}, in the folder of the page", draw), ("beside another comparison", f"{draw} --against OTHER")]


def _made(comparison: Comparison) -> list[Table]:
    """Data, settings, machine and versions."""
    data = {name: item for name, item in comparison.data.items() if name != "references"}
    known = comparison.data.get("references") or {}
    references = {
        f"reference: {reference(str(name))}": value(item, comparison.unit) for name, item in known.items() if isinstance(item, int | float)
    }
    machine = {name: item for name, item in comparison.machine.items() if name != "packages"}
    times = {"started": comparison.started, "took": duration(comparison.seconds)}
    return [
        _listing("Data", {**data, **references}),
        _listing("Settings", settings(comparison)),
        _listing("Machine", {**machine, **times}),
        _listing("Versions", comparison.machine.get("packages") or {}),
        Table(
            caption="Models",
            head=["model", "from", "options", "parameters", "FLOP per token", "step before the runs", "memory estimated"],
            groups=[
                (
                    "",
                    [
                        [
                            label(comparison, entry.name),
                            entry.source,
                            ", ".join(f"{name} {_word(item)}" for name, item in entry.options.items()) or NONE,
                            f"{entry.parameters:,}",
                            f"{entry.flops_per_token:,.4g}",
                            NONE if entry.step_seconds is None else seconds(entry.step_seconds),
                            NONE if entry.memory_bytes is None else f"{entry.memory_bytes:,} B",
                        ]
                        for entry in comparison.entries
                    ],
                )
            ],
            words=3,
        ),
    ]


def against_tables(found: Against) -> list[Table]:
    """What differs between two comparisons, their scores, and their times and memory."""
    unit, here, there = found.here.unit, found.here, found.there

    def named(name: str) -> str:
        return label(here if any(entry.name == name for entry in here.entries) else there, name)

    scores = [
        [
            named(side.name),
            *(NONE if part is None else value(part.mean, unit, with_unit=False) for part in (side.here, side.there)),
            NONE if side.difference is None else signed(side.difference, unit),
            _against_word(found, side.difference),
        ]
        for side in found.sides
    ]
    made = [
        Table(
            caption="What differs between the two",
            head=["", "this", "the other"],
            groups=[("", [list(row) for row in found.conditions])],
            words=3,
        ),
        Table(
            caption=f"Scores of the two, {unit}",
            head=["model", "this", "the other", "this minus the other (interval)", "this is"],
            groups=[("", scores)],
            note=" ".join(found.notes)
            or "Welch's intervals, at 95% for all models together: the runs of two comparisons have nothing in common.",
        ),
    ]
    if found.ratios:
        groups = [
            (
                QUANTITIES[quantity],
                [
                    [
                        named(ratio.name),
                        f"{ratio.length:,}",
                        *(_cost(ratio.quantity, part) for part in (ratio.here, ratio.there)),
                        f"{ratio.ratio:.2f}",
                    ]
                    for ratio in found.ratios
                    if ratio.quantity == quantity
                ],
            )
            for quantity in dict.fromkeys(ratio.quantity for ratio in found.ratios)
        ]
        head = ["model", "length", "this", "the other", "this / the other"]
        made.append(Table(caption="Time and memory of the two", head=head, groups=groups, note="Medians of rounds, where times."))
    return made


def _against_word(found: Against, difference: Any) -> str:
    if difference is None or difference.low is None or difference.low <= 0 <= difference.high:
        return "no verdict"
    return "better" if (difference.mean > 0) == found.here.more_is_better else "worse"


def _cost(quantity: str, number: float) -> str:
    from ...evaluation.report import size

    return size(number) if quantity.endswith("bytes") else seconds(number)


def _listing(caption: str, values: dict[str, Any]) -> Table:
    rows = [[name.replace("_", " "), _word(item)] for name, item in values.items() if item is not None and item != ""]
    return Table(caption=caption, head=["what", "value"], groups=[("", rows)], words=2)


def _word(item: Any) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, dict):
        return ", ".join(f"{name} {_word(inner)}" for name, inner in item.items())
    return ", ".join(map(_word, item)) if isinstance(item, list | tuple) else f"{item:g}" if isinstance(item, float) else str(item)
