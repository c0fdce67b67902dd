"""The one door to every saved model: ours, or the twin of a published one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import heads
from .heads.files import read_config

if TYPE_CHECKING:
    import torch
    from torch import nn


def load(path: str | os.PathLike[str], *, dtype: torch.dtype | str | None = None) -> nn.Module:
    """The model in a folder that ``save_pretrained``, `subq train` or `subq convert` wrote, on the CPU, in eval mode.

    Its class is the one that the folder's config.json names: :class:`LanguageModel`, :class:`SequenceClassifier`, :class:`EncoderDecoder`,
    or a twin of `subquadratic.compat`, which is called in the same way: ``model(tokens, mask=mask)``.

    Args:
        dtype: of the floating-point weights: a ``torch.dtype``, or its name ("bfloat16"). None or "auto": each as it was saved.

    Raises:
        FileNotFoundError: if ``path`` holds no saved model.
        ValueError: if it is of another format, or files are damaged; for another ``dtype``.
    """
    from . import compat

    name = str(read_config(Path(path))["class"])
    if name in heads.__all__:
        return getattr(heads, name).from_pretrained(path, dtype=dtype)
    return compat.load(path, dtype=dtype)
