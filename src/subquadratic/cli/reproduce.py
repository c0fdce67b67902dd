"""`subq reproduce`: the papers' claims, measured on this machine."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reproduction.catalogue import CLAIMS, cost, select, within
from ..reproduction.claim import NOT_RUN, SOURCES, Claim, Setting, counted
from ..reproduction.progress import Voice, about
from ..training.options import parse_duration
from .options import parse
from .reproduce_report import told
from .text_io import notify, output_width, print_text

if TYPE_CHECKING:
    from ..reproduction.results import Result
    from ..reproduction.run import Run
    from ..training.status import StatusLine

OUT = "runs/reproduction"
SEEDS = 2**32
QUIET, QUIET_FILE = 5.0, 60.0  # seconds without a word, on a terminal and elsewhere
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

    claims: str | tuple[str, ...] | None = None
    """Claims to measure: ids or patterns, such as 'performer.*'."""
    all: bool = False
    """Measure every claim, the cheapest first."""
    list: bool = False
    """List the claims, measure nothing; with --budget, those that fit into it."""
    budget: str | None = None
    """Time to spend, such as 60m, the cheapest claims first: those whose cost no longer fits are left out, and named."""
    out: str = OUT
    """Folder of results.json, which keeps the last result of each claim."""
    resume: bool = False
    """Keep results that --out has already, of the same code and seed."""
    seed: int = 0
    """Seed of data, weights and samples, from 0 to 2**32 - 1."""
    threads: int | None = None
    """Number of threads, at most 8 per core (100 if that is more). Default: PyTorch's own choice."""
    json: bool = False
    """Print JSON."""

    def check(self) -> None:
        """Raises ValueError for a value out of range, or options that do not go together."""
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed must be from 0 to 2**32 - 1, got {self.seed}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.claims is not None and self.all:
            raise ValueError("all measures every claim: leave out the names of claims, or --all")
        if self.claims is None and not self.all and not self.list:
            raise ValueError("name a claim, or give --all; --list shows the claims")
        self.seconds()

    def chosen(self) -> Sequence[Claim]:
        """The claims that are named; all where none is.

        Raises:
            ValueError: there is no such claim.
        """
        if self.claims is None:
            return list(CLAIMS.values())
        return select(self.claims.split(",") if isinstance(self.claims, str) else self.claims)

    def seconds(self) -> float | None:
        """The budget; None: there is none.

        Raises:
            ValueError: it is no time.
        """
        return None if self.budget is None else parse_duration(self.budget)


def run(argv: Sequence[str]) -> int:
    options = parse(ReproduceOptions, gathered(argv), verb="reproduce", examples=EXAMPLES)
    options.check()
    chosen = options.chosen()
    folder = Path(options.out).expanduser()
    if options.list:
        known = _verdicts(folder)
        chosen, too_dear = within(chosen, options.seconds()) if options.budget is not None else (chosen, [])
        print_text(
            _as_json([_listed(claim, known) for claim in chosen]) if options.json else "\n".join(_table(chosen, known, too_dear)) + "\n"
        )
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


def _measure(options: ReproduceOptions, chosen: Sequence[Claim], folder: Path) -> int:
    from ..training.outputs import check_folder

    check_folder("out", folder)
    _known(folder)  # another program's results.json is told here
    if options.all or options.budget is not None:
        chosen = within(chosen, None)[0]
    from ..reproduction.results import plain
    from ..reproduction.run import measure
    from ..training.status import status

    with status() as line, _voice(line) as voice:

        def begins(claim: Claim, place: str, seconds: float) -> None:
            line.clear()
            notify(f"{place}: {claim.id}, about {about(seconds)}\n")
            voice.begin("" if line.visible else claim.id, seconds)

        def broke(claim: Claim, why: str) -> None:
            voice.end()
            line.clear()
            notify(f"{claim.id} broke: {why}\n")

        def done(claim: Claim, result: Result) -> None:
            voice.end()
            line.clear()
            if not options.json:
                print_text("\n".join(told(claim, result)) + "\n")

        found = measure(
            chosen, setting=Setting(seed=options.seed, say=voice.say), threads=options.threads, out=folder, resume=options.resume,
            seconds=options.seconds(), begins=begins, done=done, broke=broke,
        )  # fmt: skip
    if options.json:
        results = [plain(result) for result in found.results]
        print_text(_as_json({"results": results, "kept": found.kept, "broken": found.broken, "left_out": found.left_out}))
    else:
        print_text("\n".join(_summary(found, folder)) + "\n")
    return 1 if found.broken else 0


def _voice(line: StatusLine) -> Voice:
    """On a terminal one line that changes; elsewhere a line a minute."""
    if line.visible:
        return Voice(line.show, every=QUIET, at_once=True)
    return Voice(lambda text: notify(f"{text}\n"), every=QUIET_FILE, at_once=False)


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


def _verdicts(folder: Path) -> dict[str, str]:
    """By claim; `older form` where something else was asked then."""
    found = _known(folder)
    if not found:
        return {}
    from ..reproduction.standing import standing

    return {result.id: standing(CLAIMS[result.id], result).word for result in found if result.id in CLAIMS}


def _listed(claim: Claim, known: dict[str, str]) -> dict[str, Any]:
    return {
        "id": claim.id,
        "paper": dataclasses.asdict(claim.paper),
        "place": claim.place,
        "claim": claim.text,
        "printed": claim.printed,
        "source": SOURCES[claim.source],
        "conditions": [f"{condition.text}: {condition.bounds()}" for condition in claim.conditions],
        "seconds": claim.seconds,
        "verdict": known.get(claim.id, NOT_RUN),
    }


def _table(claims: Sequence[Claim], known: dict[str, str], too_dear: Sequence[Claim]) -> Iterator[str]:
    """Id, cost and last verdict in columns, and the claim below, within the terminal's width."""
    width = output_width()
    longest = max((len(claim.id) for claim in claims), default=5)
    yield f"{'claim':<{longest}}  {'cost':>6}  last verdict"
    yield "-" * min(width, longest + 2 + 6 + 2 + 19)
    for claim in claims:
        yield f"{claim.id:<{longest}}  {about(claim.seconds):>6}  {known.get(claim.id, NOT_RUN)}"
        yield from textwrap.wrap(claim.text, width, initial_indent="    ", subsequent_indent="    ")
    said = f"{len(claims)} claim{'s' * (len(claims) != 1)}, {about(cost(claims))} in all on two cores; what claims share is counted once"
    yield from textwrap.wrap(said, width, subsequent_indent="    ")
    if too_dear:
        said = f"left out, since the budget is too small: {', '.join(claim.id for claim in too_dear)}"
        yield from textwrap.wrap(said, width, subsequent_indent="    ", break_on_hyphens=False)


def _summary(found: Run, folder: Path) -> Iterator[str]:
    """How many hold, what broke, what was left out, and where the results are."""
    width = output_width()
    said = [counted(result.verdict for result in found.results)] * bool(found.results)
    said += [f"{len(found.kept)} kept as measured before"] * bool(found.kept)
    yield ", ".join(said) or "nothing was measured"
    for title, reasons in (("broke", found.broken), ("left out", found.left_out)):
        for name, why in reasons.items():
            yield from textwrap.wrap(f"{title}: {name}: {why}", width, subsequent_indent="    ")
    if found.results:
        yield from textwrap.wrap(f"results are in {folder / 'results.json'}", width, break_long_words=False, break_on_hyphens=False)


def _as_json(value: Any) -> str:
    from ..core.plain_json import to_json

    return to_json(value, indent=2, ensure_ascii=False) + "\n"
