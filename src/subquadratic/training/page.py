"""The `README.md` of a run folder: how the run was made, what came out, how to use it."""

from __future__ import annotations

from typing import Any

from .options import TrainOptions
from .problem import Problem
from .run_folder import RunFolder
from .setup import predict_command


def run_page(folder: RunFolder, options: TrainOptions, problem: Problem, facts: dict[str, Any]) -> str:
    """Markdown, from what `run.json` holds. It stays true where the folder is moved: paths and commands are relative to it."""
    result = facts["result"]
    where = "."
    state = "was stopped early" if result["interrupted"] else "is finished"
    numbers = "\n".join(f"| {name.replace('_', ' ')} | {_number(value)} |" for name, value in result.items() if name != "interrupted")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    use, measure = problem.closing(where), f"subq evaluate {where}"
    again = f"subq train --resume {where}" if result["interrupted"] else "subq train --config run.yaml --out ../another_run"
    rows = [predict_command(options, where)] if options.label is not None or options.target is not None else []
    commands = "\n".join(dict.fromkeys((use, *rows, measure, again)))
    written = ", what the model wrote on the way in `samples.txt`" if (folder.path / "samples.txt").exists() else ""
    return f"""# {options.model}, {facts["parameters"]:,} parameters

A {options.model} for {problem.kind.replace("_", " ")}, trained with subquadratic. The run {state}.

![loss](loss.svg)

| | |
|---|---|
{numbers}

## How it was made

Data: {problem.text}.
Digest of the data: `{problem.digest}`. Runs are comparable only where these agree.

Every option is in `run.yaml`, every measurement in `metrics.jsonl`{written}.
Versions: {versions}.

## How to use it

In this folder, wherever it is:

```console
{commands}
```

```python
import subquadratic as sq

model = sq.{facts["class"]}.from_pretrained(".")
```
"""


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
