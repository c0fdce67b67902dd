"""What a distillation tells people: lines for the terminal, and the page in the result's folder."""

from __future__ import annotations

import math
from typing import Any

BAR = 24  # columns
WORDS = {
    "cosine": "cosine {:.3f}",
    "lowest_tenth": "a tenth below {:.3f}",
    "spearman": "Spearman {:.3f}",
    "bits_per_byte": "{:.3f} bits/byte",
    "teacher_bits_per_byte": "the original {:.3f}",
    "divergence": "{:.3f} bits a token from it",
    "agreement": "the same likeliest token {:.1%}",
}


def summary(figures: dict[str, float]) -> str:
    """Figures in one line."""
    return ", ".join(words.format(figures[name]) for name, words in WORDS.items() if name in figures)


def cost_lines(rows: list[dict[str, Any]], title: str) -> list[str]:
    """A table of times and memory against the length, with a bar for each time, on a logarithmic axis."""
    times = [row[name] for row in rows for name in ("exact_seconds", "seconds")]
    lines = [f"{title} (bars: time, logarithmic)", f"{'length':>8}  {'exact':>10}  {'ours':>10}  {'exact':>9}  {'ours':>9}"]
    for row in rows:
        seconds = f"{row['exact_seconds'] * 1e3:>7,.1f} ms  {row['seconds'] * 1e3:>7,.1f} ms"
        sizes = f"{_size(row['exact_bytes'])}  {_size(row['bytes'])}"
        lines.append(f"{row['length']:>8,}  {seconds}  {sizes}  exact {_bar(row['exact_seconds'], times)}")
        lines.append(f"{'':>56}ours  {_bar(row['seconds'], times)}")
    return lines


def report_lines(content: dict[str, Any]) -> list[str]:
    """The whole report."""
    steps = ", ".join(f"{count:,} {name}" for name, count in content["steps"].items())
    lines = [
        f"swapped     {summary(content['swapped'])}",
        f"distilled   {summary(content['distilled'])}",
        f"measured    on {content['measured_on']} texts that it was not trained on, up to {content['length']} tokens",
        f"training    steps: {steps}; {content['tokens']:,} tokens in {content['seconds']:,.0f} s on {content['threads']} threads",
    ]
    if content["interrupted"]:
        lines.append("interrupted before its end: the model is as far as it came")
    lines += ["", *cost_lines(content["costs"]["model"], "one sequence through the model: time, memory above the weights")]
    return lines + ["", *cost_lines(content["costs"]["attention"], "one attention layer alone")]


def page(content: dict[str, Any], *, sentences: bool) -> str:
    """The README.md of a result."""
    given = ", ".join(f"{name}={value!r}" for name, value in content["options"].items())
    opened = "from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained(folder, trust_remote_code=True)"
    if sentences:
        opened += "\n\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(folder, trust_remote_code=True)"
    report = "\n".join(report_lines(content))
    return f"""\
# A model with attention of linear cost

Distilled with `subq distil` from {content['checkpoint']}: its attention was replaced by {content['attention']} ({given})
and the weights were trained to give what the original gives, on {content['data']}.

```python
{opened}
```

`trust_remote_code` runs the lines in this folder that import the package `subquadratic`. Where `subquadratic.hf.attention` has been
imported before, it is not needed.

```text
{report}
```
"""


def _size(size: int | None) -> str:
    return f"{'?':>9}" if size is None else f"{size / 2**20:>6,.1f} MB"


def _bar(value: float, all_of_them: list[float]) -> str:
    least, most = min(all_of_them), max(all_of_them)
    return "█" * (1 + round((BAR - 1) * math.log(value / least) / math.log(most / least))) if most > least > 0 else "█"
