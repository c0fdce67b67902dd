"""`subq reproduce`: the papers' claims, measured on this machine."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reproduction.catalogue import CLAIMS, select, within
from ..reproduction.claim import NOT_RUN, SOURCES, Claim, Setting, counted, figure
from ..training.options import parse_duration
from .options import parse
from .text_io import notify, output_width, print_text

if TYPE_CHECKING:
    from ..reproduction.results import Result
    from ..reproduction.run import Run

OUT = "runs/reproduction"
EXAMPLES = """\
examples:
  subq reproduce --list                                   every claim, its cost on two cores, and its last verdict
  subq reproduce performer.lemma2                         one claim
  subq reproduce 'performer.*' linformer.projection       several
  subq reproduce --all --budget 60m                       the cheapest first, as many as fit into an hour
  subq reproduce --all --resume                           those that were not measured yet
"""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Measure claims of the papers: subq reproduce [CLAIM ...]. A claim that does not hold is a result, not an error."""

    claims: str | None = None
    """Claims to measure: ids or patterns, such as 'performer.*'."""
    all: bool = False
    """Measure every claim, the cheapest first."""
    list: bool = False
    """List the claims, measure nothing."""
    budget: str | None = None
    """Time to spend, such as 60m: claims whose cost no longer fits are left out, and named."""
    out: str = OUT
    """Folder of results.json, which keeps the last result of each claim."""
    resume: bool = False
    """Keep results that --out has already, of the same code and seed."""
    seed: int = 0
    """Seed of data, weights and samples."""
    threads: int | None = None
    """Number of threads, at most 8 per core (100 if that is more). Default: PyTorch's own choice."""
    json: bool = False
    """Print JSON."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or options that do not go together."""
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.claims is not None and self.all:
            raise ValueError("all measures every claim: leave out the names of claims, or --all")
        if self.claims is None and not self.all and not self.list:
            raise ValueError("name a claim, or give --all; --list shows the claims")
        self.seconds()

    def seconds(self) -> float | None:
        """The budget; None: there is none.

        Raises:
            ValueError: it is no time.
        """
        return None if self.budget is None else parse_duration(self.budget)


def run(argv: Sequence[str]) -> int:
    options = parse(ReproduceOptions, gathered(argv), verb="reproduce", examples=EXAMPLES)
    options.check()
    chosen = select(options.claims.split(",")) if options.claims is not None else list(CLAIMS.values())
    folder = Path(options.out).expanduser()
    if options.list:
        known = {result.id: result for result in _known(folder)}
        print_text(_as_json([_listed(claim, known) for claim in chosen]) if options.json else "\n".join(_table(chosen, known)) + "\n")
        return 0
    return _measure(options, chosen, folder)


def gathered(argv: Sequence[str]) -> list[str]:
    """The words that are neither flags nor values of flags, as `--claims A,B`."""
    alone = {field.name for field in dataclasses.fields(ReproduceOptions) if field.type in ("bool", bool)} | {"help", "print_config"}
    claims, rest, flag = [], [], ""
    for word in argv:
        if word.startswith("-"):
            rest.append(word)
            flag = "" if "=" in word else word.lstrip("-").replace("-", "_")
        elif flag and (flag not in alone or word in ("true", "false")):
            rest.append(word)
            flag = ""
        else:
            claims.append(word)
    return [*rest, *([f"--claims={','.join(claims)}"] if claims else [])]


def _measure(options: ReproduceOptions, chosen: list[Claim], folder: Path) -> int:
    from ..training.outputs import check_folder

    check_folder("out", folder)
    _known(folder)  # another program's results.json is told here
    taken, too_dear = within(chosen, options.seconds()) if options.all or options.budget is not None else (chosen, [])
    if not taken:
        cheapest = min(chosen, key=lambda claim: claim.seconds)
        raise ValueError(f"budget: nothing fits into {options.budget}: {cheapest.id} takes {_time(cheapest.seconds)}")
    from ..reproduction.run import measure
    from ..training.status import status

    with status() as line:

        def show(text: str) -> None:
            line.clear()
            notify(f"{text}\n")

        def done(claim: Claim, result: Result) -> None:
            line.clear()
            if not options.json:
                print_text("\n".join(_told(claim, result)) + "\n")

        found = measure(
            taken, setting=Setting(seed=options.seed, say=line.show), threads=options.threads, out=folder, resume=options.resume,
            seconds=options.seconds(), show=show, done=done,
        )  # fmt: skip
    left = {claim.id: f"takes {_time(claim.seconds)}" for claim in too_dear} | dict.fromkeys(found.left_out, "no time was left")
    if options.json:
        results = [dataclasses.asdict(result) for result in found.results]
        print_text(_as_json({"results": results, "kept": found.kept, "broken": found.broken, "left_out": left}))
    else:
        print_text("\n".join(_summary(found, left, folder)) + "\n")
    return 1 if found.broken else 0


def _known(folder: Path) -> list[Result]:
    """What was measured before.

    Raises:
        ValueError: results.json is another program's.
    """
    name = folder / "results.json"
    if not name.exists():
        return []
    from ..reproduction.results import load

    return load(name)


def _listed(claim: Claim, known: dict[str, Result]) -> dict[str, Any]:
    return {
        "id": claim.id,
        "paper": dataclasses.asdict(claim.paper),
        "place": claim.place,
        "claim": claim.text,
        "printed": claim.printed,
        "source": SOURCES[claim.source],
        "conditions": [f"{condition.text}: {condition.bounds()}" for condition in claim.conditions],
        "seconds": claim.seconds,
        "verdict": known[claim.id].verdict if claim.id in known else NOT_RUN,
    }


def _table(claims: list[Claim], known: dict[str, Result]) -> Iterator[str]:
    """Id, cost and last verdict in columns, and the claim below, within the terminal's width."""
    width = output_width()
    longest = max(len(claim.id) for claim in claims)
    yield f"{'claim':<{longest}}  {'cost':>6}  last verdict"
    yield "-" * min(width, longest + 2 + 6 + 2 + 19)
    for claim in claims:
        verdict = known[claim.id].verdict if claim.id in known else NOT_RUN
        yield f"{claim.id:<{longest}}  {_time(claim.seconds):>6}  {verdict}"
        yield from textwrap.wrap(claim.text, width, initial_indent="    ", subsequent_indent="    ")
    total = sum(claim.seconds for claim in claims)
    yield f"{len(claims)} claim{'s' * (len(claims) != 1)}, {_time(total)} in all on two cores"


def _told(claim: Claim, result: Result) -> Iterator[str]:
    """One result: the verdict, what was asked, what was measured, and the table."""
    from ..evaluation.report import table

    width, measurement = output_width(), result.measurement
    yield f"{claim.id}: {result.verdict} ({result.seconds:.0f} s)"
    yield from textwrap.wrap(claim.text, width, initial_indent="  ", subsequent_indent="  ")
    for sentence in filter(None, (measurement.unavailable, measurement.diverged, measurement.finding)):
        yield from textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="  ")
    for condition in claim.conditions if result.met else ():
        answer = {"yes": "yes ", "no": "NO  "}.get(answer := condition.answer(measurement), f"{answer}: ")
        said = f"{answer}{condition.text}: {figure(measurement.numbers[condition.number])} (asked: {condition.bounds()})"
        yield from textwrap.wrap(said, width, initial_indent="  ", subsequent_indent="      ")
    lines = table([measurement.columns, *measurement.rows]) if measurement.rows else []
    if max(map(len, lines), default=0) + 2 <= width:
        yield from (f"  {line}" for line in lines)
    yield ""


def _summary(found: Run, left: dict[str, str], folder: Path) -> Iterator[str]:
    """How many hold, what broke, what was left out, and where the results are."""
    width = output_width()
    said = [counted(result.verdict for result in found.results)] * bool(found.results)
    said += [f"{len(found.kept)} kept as measured before"] * bool(found.kept)
    yield ", ".join(said) or "nothing was measured"
    for title, reasons in (("broke", found.broken), ("left out", left)):
        for name, why in reasons.items():
            yield from textwrap.wrap(f"{title}: {name}: {why}", width, subsequent_indent="    ")
    if found.results:
        yield from textwrap.wrap(f"results are in {folder / 'results.json'}", width, break_long_words=False, break_on_hyphens=False)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _as_json(value: Any) -> str:
    from ..core.plain_json import to_json

    return to_json(value, indent=2, ensure_ascii=False) + "\n"
