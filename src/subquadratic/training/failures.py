"""What a run that fails says: why, what its folder holds nevertheless, and the way out."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..costs.memory import out_of_memory
from .callbacks import TrainingError
from .checkpoints import Checkpoints, is_full_disk
from .integrity import why_no_model

Best = dict[str, Any] | None  # {"step", "loss"} of the best validation so far


@contextlib.contextmanager
def explaining(folder: Path, best: Callable[[], Best], say: Callable[[str], None]) -> Iterator[None]:
    """Says of a failure what was kept in `folder`, and of a write that failed why it did.

    Raises:
        TrainingError: in the place of what the block raised, where there is more to say of it.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped     at once; {what_is_kept(folder, best())}")
        raise
    except TrainingError as error:
        raise TrainingError(f"{error}; {what_is_kept(folder, best())}: try a smaller --learning_rate or --clip") from error
    except Exception as error:
        if is_full_disk(error):
            Checkpoints(folder).sweep()
            raise TrainingError(f"out: no space left to write {folder}; {what_is_kept(folder, best())}") from error
        if isinstance(error, OSError) and not folder.is_dir():
            raise TrainingError(f"out: the folder {folder} is gone, and what was in it") from error
        if isinstance(error, OSError):
            raise TrainingError(f"out: cannot write {folder} ({error}); {what_is_kept(folder, best())}") from error
        if (said := out_of_memory(error)) is not None:
            way_out = "give a smaller --batch_size or --context, or --checkpointing"
            raise TrainingError(f"{said}; {what_is_kept(folder, best())}: {way_out}") from error
        raise


def what_is_kept(folder: Path, best: Best) -> str:
    """What the folder holds, as it is found there."""
    steps = Checkpoints(folder).whole()
    if best is None or why_no_model(folder) is not None:
        model = "no model is saved there" if best is None else "no whole model is left there"
    else:
        model = f"the model of step {best['step']:,} is kept in {folder}"
    if not steps:
        return model
    return f"{model}, and the checkpoint of step {steps[-1]:,} (subq train --resume {shlex.quote(str(folder))})"
