"""Where a memory map lies in its file, so that another process can map it anew."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def place_in_file(tokens: NDArray[Any]) -> dict[str, Any] | None:
    """Where a memory map or a slice of one lies in its file; None for an array in memory.

    numpy leaves a slice the offset of what it was cut from, so the offset is taken from the addresses.
    """
    mapped = getattr(tokens, "_mmap", None)
    if not isinstance(tokens, np.memmap) or tokens.filename is None or mapped is None or not tokens.flags.c_contiguous:
        return None
    whole = np.frombuffer(mapped, dtype=np.uint8)
    mapped_from = tokens.offset - tokens.offset % mmap.ALLOCATIONGRANULARITY
    offset = mapped_from + tokens.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return {"filename": str(Path(tokens.filename).resolve()), "dtype": tokens.dtype, "offset": offset, "shape": tokens.shape}
