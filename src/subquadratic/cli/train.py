"""`subq train`: train a model into a run folder."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.defaults import DEFAULTS
from ..training.options import TrainOptions
from ..training.resume import ALONE, resumed_folder, saved_options
from ..training.status import status
from .options import parse

# The headings of the help.
GROUPS = {
    "data": (
        "data", "validation_data", "text", "label", "target", "quotes", "skip_bad_rows", "binary", "headers", "task", "task_options",
        "tokenizer",
    ),
    "integers and numbers": ("tokens", "bins", "binning", "difference", "column", "dtype"),
    "model": ("model", "causal", "dim", "depth", "heads", "context", "fields"),
    "length of the run": ("max_steps", "budget", "patience"),
    "optimisation": (
        "batch_size", "accumulation", "learning_rate", "schedule", "warmup", "weight_decay", "clip", "ema", "precision", "checkpointing",
        "threads",
    ),
    "evaluation": ("evaluations", "validation_tokens", "report_to"),
    "run folder": ("out", "overwrite", "resume", "weights", "save_every", "keep", "seed"),
    "output": ("quiet", "json"),
    "before you begin": ("dry_run", "find_lr"),
}  # fmt: skip
EXAMPLES = """\
examples:
  subq train                                        a Performer on Python's standard library, five minutes
  subq train --model linformer --budget 20m         another model, more time
  subq train --data notes/ --out runs/notes         your own text files
  subq train --data 'logs/*.log.gz' --context 1024 --dry_run
  subq train --data notes/ --validation_data held_out.txt
  subq train --resume runs/notes                    continue a run that was stopped
  subq train --resume runs/notes --budget 20m       train a finished run further, to 20 minutes in all
  subq train --data reviews.csv --label stars       a classifier of the column "text"
  subq train --data pairs.jsonl --text german --target english
  subq train --task recall --model transformer      a synthetic task
  subq train --causal false --model fastformer      fill in masked bytes instead of predicting the next
  subq train --fields.kernel relu --fields.features 128 --max_steps 500
  subq train --find_lr --model fastformer           which learning rate?
  subq train --config runs/performer-1/run.yaml --seed 1
"""


def _table() -> str:
    lines = ["defaults:", "  model                   dim  depth  heads  context  batch_size  learning_rate"]
    for name, d in DEFAULTS.items():
        row = f"{d.dim:>5}  {d.depth:>5}  {d.heads:>5}  {d.context:>7}  {d.batch_size:>10}  {d.learning_rate:>13g}"
        lines.append(f"  {name:<20} {row}")
    return "\n".join(lines) + "\n"


def run(argv: Sequence[str]) -> int:
    options, saved = _parse(argv), None
    if options.resume is not None:
        folder = resumed_folder(options.resume, options.out)
        saved = saved_options(folder)  # says what is wrong with its run.yaml, and what to do
        # The run's own options come first, so that what is given here and differs can be told.
        options = _parse(["--config", str(folder / "run.yaml"), *argv, "--resume", str(folder), "--out", str(folder)])
    from ..training.plan import plan_run

    plan = plan_run(options, saved)

    with status("loading PyTorch", hidden=options.quiet):
        from ..core.free_memory import keep_freed_memory
        from ..training.entry import carry_out

    keep_freed_memory()
    result = carry_out(plan)
    return 0 if result is None or result.signal is None else 128 + result.signal


def _parse(argv: Sequence[str]) -> TrainOptions:
    return parse(TrainOptions, argv, verb="train", examples=f"{EXAMPLES}\n{_table()}", alone={"resume": ALONE}, groups=GROUPS)
