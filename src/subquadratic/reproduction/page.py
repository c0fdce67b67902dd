"""`docs/reproduction.md` and its plots, from the results that are kept in the repository.

    python -m subquadratic.reproduction.page

Verdicts are computed here again, from the numbers in the results and what was asked of them, and written into the results too.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .catalogue import CLAIMS
from .claim import FAILS, NOT_RUN, OLDER, SOURCES, Claim, counted
from .results import Result, load, load_folder, save
from .standing import Standing, standing

RESULTS, PAGE, IMAGES = Path("benchmarks/results/reproduction"), Path("docs/reproduction.md"), Path("docs/images/reproduction")
TITLE = "# Do the papers' claims hold here?"
INTRODUCTION = """\
`subq reproduce` measures claims of the papers with this package's code. Each has a target with a tolerance, a seed and a cost, and a
verdict that follows from the measured numbers alone. What does not hold stands here as what holds does; *undecided* is what has a
number whose 95% interval, after the ±, lies across its bound. Read the setting before the verdict: a claim about a model that takes days
to train may be true of the paper's model and not of a small one trained for minutes.

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
    """With the verdict that follows from its numbers; as it is where it is none of a claim that there is."""
    if not by_claim([result]):
        return result
    outcome = standing(CLAIMS[result.id], result).outcome
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
    """Of claims that still exist, in the catalogue's order; not those that neither say what was asked nor have what is asked now."""
    found = {result.id: result for result in results}
    return {name: found[name] for name, claim in CLAIMS.items() if name in found and standing(claim, found[name]).word != NOT_RUN}


def page(results: Mapping[str, Result]) -> str:
    """The whole page in Markdown."""
    stands = {name: standing(CLAIMS[name], result) for name, result in results.items()}
    parts = [TITLE, "", INTRODUCTION, "", *_overview(stands), ""]
    paper = ""
    for claim in CLAIMS.values():
        if claim.id.partition(".")[0] != paper:
            paper = claim.id.partition(".")[0]
            parts += [f"## {HEADINGS[paper]}", ""]
        parts += [*_section(claim, stands.get(claim.id)), ""]
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


def _overview(stands: Mapping[str, Standing]) -> Iterator[str]:
    verdicts = {name: stands[name].word if name in stands else NOT_RUN for name in CLAIMS}
    yield f"Of {len(CLAIMS)} claims: {counted(verdicts.values())}."
    yield ""
    yield "| | claim | verdict |"
    yield "|---|---|---|"
    for name, verdict in verdicts.items():
        more = f": {_strong(stands[name].outcome.verdict)}" if verdict == OLDER else ""
        yield f"| [`{name}`](#{_anchor(name)}) | {_cell(CLAIMS[name].text)} | {_strong(verdict)}{more} |"


def _section(claim: Claim, stands: Standing | None) -> Iterator[str]:
    yield f"### `{claim.id}`"
    yield ""
    where = f"[{claim.paper.name}](https://arxiv.org/abs/{claim.paper.arxiv})" if claim.paper.arxiv else claim.paper.name
    yield f"{claim.text} ({where}{f', {claim.place}' if claim.place else '; the claim is ours'})"
    yield ""
    if claim.printed:
        yield f"Printed: {claim.printed} ({SOURCES[claim.source]})."
        yield ""
    if stands is None:
        yield " ".join(filter(None, (f"**Verdict: {NOT_RUN}.**", claim.note)))
        yield ""
        yield from _asked(claim)
        return
    yield " ".join(filter(None, _verdict(claim, stands)))
    yield ""
    yield from _measured(claim, stands)
    if stands.older:
        yield ""
        yield "Now it asks more, or something else:"
        yield ""
        yield from _asked(claim)


def _verdict(claim: Claim, stands: Standing) -> Iterator[str]:
    """The verdict, what came out, and how to read it, as it was written for what was measured."""
    yield f"**Verdict: {stands.outcome.verdict}{', of an older form of the claim' if stands.older else ''}.**"
    if stands.text != claim.text:
        yield f"When it was measured, the claim read: {stands.text}"
    yield stands.result.measurement.finding
    yield stands.note
    if not stands.known:
        yield "The result does not say what was asked when it was measured; it is judged by what is asked now."


def _asked(claim: Claim) -> Iterator[str]:
    yield "| asked of | bounds |"
    yield "|---|---|"
    for condition in claim.conditions:
        yield f"| {_cell(condition.text)} | {condition.bounds()} |"
    yield ""
    yield f"Takes about {_minutes(claim.seconds)} on two cores: `subq reproduce {claim.id}`."


def _measured(claim: Claim, stands: Standing) -> Iterator[str]:
    found = stands.result.measurement
    if found.unavailable or found.diverged:
        yield f"{found.unavailable or found.diverged}. {_where(stands.result)}"
        return
    yield "| asked of | bounds | measured | |"
    yield "|---|---|---:|---|"
    for condition in stands.conditions:
        answer = condition.answer(found)
        yield f"| {_cell(condition.text)} | {condition.bounds()} | {condition.shown(found)} | {_strong(answer)} |"
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
    yield f"{found.setup[:1].upper()}{found.setup[1:]}. {_where(stands.result)}"


def _where(result: Result) -> str:
    machine: Mapping[str, Any] = result.machine
    threads = machine.get("threads")
    shared = f", of which {_minutes(result.shared_seconds)} shared with claims before" if result.shared_seconds else ""
    return (
        f"Seed {result.seed}, {_minutes(result.seconds)}{shared}; {machine.get('processor')}, {threads} thread{'s' * (threads != 1)}, "
        f"PyTorch {machine.get('packages', {}).get('torch')}, Python {machine.get('python')}, revision "
        f"{machine.get('revision') or 'unknown'}, "
        f"{str(machine.get('date'))[:10]}."
    )


def _anchor(name: str) -> str:
    return name.replace(".", "")  # as GitHub and MkDocs make it of the heading


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _strong(verdict: str) -> str:
    return f"**{verdict}**" if verdict in (FAILS, "no") else verdict


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


if __name__ == "__main__":
    main()
