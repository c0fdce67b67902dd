"""The `README.md` of a run folder: how the run was made, what came out, how to use it."""

from __future__ import annotations

from typing import Any

from .further import EXTENDED
from .options import TrainOptions
from .problems.problem import Problem
from .problems.setup import predict_command
from .run_folder import RunFolder
from .snippets import snippet


def run_page(folder: RunFolder, options: TrainOptions, problem: Problem, facts: dict[str, Any]) -> str:
    """Markdown, from what `run.json` holds. It stays true where the folder is moved: paths and commands are relative to it, but for
    the Python lines, which run from anywhere and say where the folder was."""
    result = facts["result"]
    where = "."
    state = "was stopped early" if result["interrupted"] else "is finished"
    numbers = _table({name: value for name, value in result.items() if name != "interrupted"})
    use, measure = problem.closing(where), f"subq evaluate {where}"
    again = f"subq train --resume {where}" if result["interrupted"] else "subq train --config run.yaml --out ../another_run"
    rows = [predict_command(options, where)] if options.label is not None or options.target is not None else []
    commands = "\n".join(dict.fromkeys((use, *rows, measure, again)))
    written = ", what the model wrote on the way in `samples.txt`" if (folder.path / "samples.txt").exists() else ""
    return f"""# {options.model}, {facts["parameters"]:,} parameters

A {options.model} for {problem.kind.replace("_", " ")}, trained with subquadratic. The run {state}.

![loss](loss.svg)

{numbers}

## How it was made

{_table(_made(options, facts))}

Data: {problem.text}.
Digest of the data: `{problem.digest}`. Runs are comparable only where these agree.

Every option is in `run.yaml`, every measurement in `metrics.jsonl`{written}.{_extensions(facts)}

## How to use it

In this folder, wherever it is:

```console
{commands}
```

From anywhere:

```python
{snippet(folder.path, model=facts["class"], body=problem.snippet)}```
"""


def _made(options: TrainOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """What a reader wants to know of a run at a glance."""
    machine = facts["machine"]
    threads = machine["cpu_threads"]
    devices = f", {machine['gpus']} × {machine['gpu']}" if machine["gpu"] else ""
    return {
        "context": f"{options.context:,} tokens",
        "width, depth, heads": f"{options.dim:,}, {options.depth}, {options.heads}",
        "batch": f"{options.batch_size} × {options.accumulation}" if options.accumulation > 1 else str(options.batch_size),
        "learning rate": f"{options.learning_rate:g}, {options.schedule}",
        "machine": f"{machine['processor']}, {threads} thread{'s' * (threads != 1)}{devices}, {machine['system']}",
        "computes": machine["computes"],
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "date": " to ".join(dict.fromkeys(facts[name].replace("T", " ").replace("+00:00", "") for name in ("started", "finished")))
        + " UTC",
    }


def _extensions(facts: dict[str, Any]) -> str:
    """When the run continued after its end."""
    steps = [f"{extension['step']:,}" for extension in facts.get(EXTENDED, [])]
    if not steps:
        return ""
    return f"\nThe run continued after step {' and '.join(steps)}, where it had ended; its learning rate warmed up again there."


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name.replace('_', ' ')} | {_number(value)} |" for name, value in rows.items())])


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
