"""`subq train`: train a model into a run folder."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.defaults import DEFAULTS
from ..training.options import TrainOptions
from .options import parse

EXAMPLES = """\
examples:
  subq train                                        a Performer on Python's standard library, five minutes
  subq train --model linformer --budget 20m         another model, more time
  subq train --data notes/ --out runs/notes         your own text files
  subq train --causal false --model fastformer      fill in masked bytes instead of predicting the next
  subq train --fields.kernel relu --fields.features 128 --max_steps 500
  subq train --config runs/performer-1/run.yaml --seed 1
"""


def _table() -> str:
    lines = ["defaults:", "  model                   dim  depth  heads  context  batch_size  learning_rate"]
    for name, d in DEFAULTS.items():
        row = f"{d.dim:>5}  {d.depth:>5}  {d.heads:>5}  {d.context:>7}  {d.batch_size:>10}  {d.learning_rate:>13g}"
        lines.append(f"  {name:<20} {row}")
    return "\n".join(lines) + "\n"


def run(argv: Sequence[str]) -> int:
    options = parse(TrainOptions, argv, verb="train", examples=f"{EXAMPLES}\n{_table()}")
    options.resolve()  # so that a bad value is told before torch and transformers are imported

    from ..training.train import train

    result = train(options)
    return 0 if result.signal is None else 128 + result.signal
