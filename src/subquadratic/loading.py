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


def load(
    path: str | os.PathLike[str], *, dtype: torch.dtype | str | None = None, quantize: str | None = None
) -> nn.Module:
    """The model in a folder that ``save_pretrained``, `subq train` or `subq convert` wrote, on the CPU, in eval mode.

    Its class is the one that the folder's config.json names: :class:`LanguageModel`, :class:`SequenceClassifier`, :class:`EncoderDecoder`,
    or a twin of `subquadratic.compat`, which is called in the same way: ``model(tokens, mask=mask)``.

    Args:
        dtype: of the floating-point weights: a ``torch.dtype``, or its name ("bfloat16"). None or "auto": each as it was saved.
        quantize: "int8": hold the weights of maps and token tables in 8 bits, as :func:`quantize_` does. None: as they were saved.

    Raises:
        FileNotFoundError: if ``path`` holds no saved model.
        ValueError: if it is of another format, or files are damaged; for another ``dtype`` or ``quantize``; for ``quantize`` with a twin of
            a published model.
    """
    from . import compat

    name = str(read_config(Path(path))["class"])
    if name in heads.__all__:
        return getattr(heads, name).from_pretrained(path, dtype=dtype, quantize=quantize)
    if quantize is not None:
        raise ValueError(f"quantize is for models of this package's own heads ({', '.join(heads.__all__)}), and {path} holds a {name}")
    return compat.load(path, dtype=dtype)
