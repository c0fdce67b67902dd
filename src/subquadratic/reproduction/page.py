"""`docs/reproduction.md` and its plots, from the results that are kept in the repository.

    python -m subquadratic.reproduction.page

Verdicts are computed here again, from the numbers in the results and the claims as they are now, and written into the results too.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .catalogue import CLAIMS
from .claim import FAILS, NOT_RUN, SOURCES, Claim, Outcome, counted, figure
from .results import Result, load, load_folder, save

RESULTS, PAGE, IMAGES = Path("benchmarks/results/reproduction"), Path("docs/reproduction.md"), Path("docs/images/reproduction")
TITLE = "# Do the papers' claims hold here?"
INTRODUCTION = """\
`subq reproduce` measures claims of the papers with this package's code. Each has a target with a tolerance, a seed and a cost, and a
verdict that follows from the measured numbers alone. What does not hold stands here as what holds does. Read the setting before the
verdict: a claim about a model that takes days to train may be true of the paper's model and not of a small one trained for minutes.

```console
subq reproduce --list                  # every claim, its cost on two cores, its last verdict
subq reproduce performer.lemma2        # one of them
subq reproduce --all --budget 60m      # the cheapest first
```

This page is made of the results in `benchmarks/results/reproduction` by `python -m subquadratic.reproduction.page`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout; default: here")
    root = parser.parse_args().root
    for path in sorted((root / RESULTS).glob("*.json")):
        save([judged_again(result) for result in load(path)], path)
    write(root, by_claim(load_folder(root / RESULTS)))


def judged_again(result: Result) -> Result:
    """With the verdict that follows from its numbers and the claim as it is now."""
    if result.id not in CLAIMS:
        return result
    outcome = CLAIMS[result.id].judge(result.measurement)
    return dataclasses.replace(result, verdict=outcome.verdict, met=outcome.met)


def write(root: Path, results: Mapping[str, Result]) -> None:
    """The page and its plots; plots of claims that have none any more are removed."""
    from ..heads.files import replace_file
    from .plots import draw

    images = root / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    plots = {f"{name}.svg": result.measurement.plot for name, result in results.items() if result.measurement.plot is not None}
    for old in images.glob("*.svg"):
        if old.name not in plots:
            old.unlink()
    for name, plot in plots.items():
        draw(plot, images / name)
    text = page(results)
    replace_file(root / PAGE, lambda file: file.write_text(text, encoding="utf-8"))


def by_claim(results: list[Result]) -> dict[str, Result]:
    """Of claims that still exist, in the catalogue's order."""
    found = {result.id: result for result in results}
    return {name: found[name] for name in CLAIMS if name in found}


def page(results: Mapping[str, Result]) -> str:
    """The whole page in Markdown."""
    outcomes = {name: CLAIMS[name].judge(result.measurement) for name, result in results.items()}
    parts = [TITLE, "", INTRODUCTION, "", *_overview(outcomes), ""]
    paper = ""
    for claim in CLAIMS.values():
        if claim.id.partition(".")[0] != paper:
            paper = claim.id.partition(".")[0]
            parts += [f"## {HEADINGS[paper]}", ""]
        parts += [*_section(claim, results.get(claim.id), outcomes.get(claim.id)), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


HEADINGS = {
    "performer": "Performer",
    "linformer": "Linformer",
    "fastformer": "Fastformer",
    "recall": "Associative recall",
    "text": "Real text, all models",
    "perceiver": "Perceiver AR",
    "feedback": "Feedback Transformer",
    "listops": "ListOps",
    "published": "The published packages",
}


def _overview(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    verdicts = {name: outcomes[name].verdict if name in outcomes else NOT_RUN for name in CLAIMS}
    yield f"Of {len(CLAIMS)} claims: {counted(verdicts.values())}."
    yield ""
    yield "| | claim | verdict |"
    yield "|---|---|---|"
    for name, verdict in verdicts.items():
        yield f"| [`{name}`](#{_anchor(name)}) | {_cell(CLAIMS[name].text)} | {_strong(verdict)} |"


def _section(claim: Claim, result: Result | None, outcome: Outcome | None) -> Iterator[str]:
    yield f"### `{claim.id}`"
    yield ""
    where = f"[{claim.paper.name}](https://arxiv.org/abs/{claim.paper.arxiv})" if claim.paper.arxiv else claim.paper.name
    yield f"{claim.text} ({where}{f', {claim.place}' if claim.place else '; the claim is ours'})"
    yield ""
    if claim.printed:
        yield f"Printed: {claim.printed} ({SOURCES[claim.source]})."
        yield ""
    finding = "" if result is None else result.measurement.finding
    yield " ".join(filter(None, (f"**Verdict: {NOT_RUN if outcome is None else outcome.verdict}.**", finding, claim.note)))
    yield ""
    if result is None or outcome is None:
        yield "| asked of | bounds |"
        yield "|---|---|"
        for condition in claim.conditions:
            yield f"| {_cell(condition.text)} | {condition.bounds()} |"
        yield ""
        yield f"Takes about {_minutes(claim.seconds)} on two cores: `subq reproduce {claim.id}`."
        return
    yield from _measured(claim, result, outcome)


def _measured(claim: Claim, result: Result, outcome: Outcome) -> Iterator[str]:
    found = outcome.measurement
    if found.unavailable or found.diverged:
        yield f"{found.unavailable or found.diverged}."
        return
    yield "| asked of | bounds | measured | |"
    yield "|---|---|---:|---|"
    for condition in claim.conditions:
        value, answer = figure(found.numbers[condition.number]), condition.answer(found)
        yield f"| {_cell(condition.text)} | {condition.bounds()} | {value} | {'**no**' if answer == 'no' else answer} |"
    yield ""
    if found.rows:
        yield f"| {' | '.join(map(_cell, found.columns))} |"
        yield f"|---|{'---:|' * (len(found.columns) - 1)}"
        for row in found.rows:
            yield f"| {' | '.join(map(_cell, row))} |"
        yield ""
    if found.plot is not None:
        yield f"![{found.plot.y} against {found.plot.x}: {', '.join(found.plot.series)}](images/reproduction/{claim.id}.svg)"
        yield ""
    yield f"{found.setup[:1].upper()}{found.setup[1:]}. {_where(result, claim)}"


def _where(result: Result, claim: Claim) -> str:
    machine: Mapping[str, Any] = result.machine
    threads = machine.get("threads")
    return (
        f"Seed {result.seed}, about {_minutes(claim.seconds)}; {machine.get('processor')}, {threads} thread{'s' * (threads != 1)}, "
        f"PyTorch {machine.get('packages', {}).get('torch')}, Python {machine.get('python')}, revision "
        f"{machine.get('revision') or 'unknown'}, "
        f"{str(machine.get('date'))[:10]}."
    )


def _anchor(name: str) -> str:
    return name.replace(".", "")  # as GitHub and MkDocs make it of the heading


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _strong(verdict: str) -> str:
    return f"**{verdict}**" if verdict == FAILS else verdict


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


if __name__ == "__main__":
    main()
