"""`subq distil`: a checkpoint of transformers, its attention replaced by one of ours and trained to give what it gave."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..training.display import make_display
from ..training.status import status
from .distil_options import DistilOptions
from .options import parse
from .text_io import OutputError

GROUPS = {
    "attention": ("attention", "features", "slots", "window"),
    "training": ("data", "budget", "steps", "batch_size", "length", "layerwise", "learning_rate", "weights", "seed", "threads"),
    "output": ("out", "overwrite", "longest", "quiet"),
}
EXAMPLES = """\
examples:
  subq distil models/minilm --out models/minilm-favor
  subq distil models/minilm --data notes/ --budget 10m --features 128 --out models/small
  subq distil models/gpt2 --attention window --window 128 --steps 500 --out models/gpt2-window
  subq distil models/minilm --weights models/minilm-favor --budget 30m --out models/better
"""


def run(argv: Sequence[str]) -> int:
    options = parse(DistilOptions, argv, verb="distil", examples=EXAMPLES, positional="checkpoint", groups=GROUPS)
    options.check()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is on a hub
    with status("loading PyTorch", hidden=options.quiet):
        from ..core.backend_info import backend_info
        from ..core.free_memory import keep_freed_memory
        from ..core.threads import use_threads
        from ..hf.distil.models import without_bars
        from ..hf.distil.report import report_lines
        from ..hf.distil.run import Listener, distil
        from ..training.callbacks import Signals

    without_bars()
    keep_freed_memory()
    use_threads(options.threads)
    display = make_display(quiet=options.quiet)
    display.unit = "error"
    display.say(f"computes    {backend_info()}")
    with Signals() as signals:
        listener = Listener(
            say=display.say, waiting=display.waiting, step=_shown(display), stop=lambda: signals.received is not None, peak=_peak
        )
        try:
            content = _distil(distil, options, listener)
        finally:
            display.close()
    for line in report_lines(content)[3:]:
        display.say(line)
    display.say(f"saved       {options.out}: AutoModel.from_pretrained({options.out!r}, trust_remote_code=True)")
    return 0 if signals.received is None else 128 + signals.received


def _distil(distil: Callable[..., dict[str, Any]], options: DistilOptions, listener: Any) -> dict[str, Any]:
    model, out = (Path(place).expanduser() for place in (options.checkpoint, options.out))
    try:
        return distil(
            model, out, data=options.data, attention=options.attention,
            options={"features": options.features, "slots": options.slots, "window": options.window},
            weights=None if options.weights is None else Path(options.weights).expanduser(), budget=options.seconds(), steps=options.steps,
            batch_size=options.batch_size, length=options.length, layerwise=options.layerwise, learning_rate=options.learning_rate,
            longest=options.longest, seed=options.seed, listener=listener,
        )  # fmt: skip
    except NotImplementedError as error:
        raise ValueError(str(error)) from error
    except FloatingPointError as error:
        raise OutputError(str(error)) from error
    except OSError as error:
        raise OutputError(f"out: cannot write {out}: {error.strerror or error}") from error


def _shown(display: Any) -> Callable[..., None]:
    def step(*, step: int, loss: float, speed: float, left: float, progress: float, **_: Any) -> None:
        display.update(step=step, bits=loss, speed=speed, left=left, progress=progress)

    return step


def _peak(call: Callable[[], object]) -> int | None:
    from ..benchmark.memory import peak_above

    found = peak_above(call)
    return None if found is None else found["above"]
