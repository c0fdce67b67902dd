"""What the machine is, and what it can do at best: the two rates that a floor is made of, measured in the same run."""

from __future__ import annotations

import datetime
import hashlib
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.threads import usable_cores
from ..evaluation.processor import processor
from ..evaluation.versions import versions
from ..kernels.native.library import has_matrix_unit, made_by
from ..layers.linear.native import linear_maps
from .timing import SHORT

PACKAGES = (
    "subquadratic", "torch", "numpy", "triton", "x-transformers", "performer-pytorch", "linformer", "fast-transformer-pytorch",
    "feedback-transformer-pytorch", "perceiver-ar-pytorch", "flash-linear-attention",
)  # fmt: skip
PRESENTING = ("report", "plots", "targets", "results")
SIDE = 1536  # of the square matrices
COPY = 1 << 26  # numbers copied: far more than any cache holds


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the machine did at best, per second."""

    matmul: float
    """FLOP of `torch.mm`, square matrices."""
    linear: float | None
    """FLOP of oneDNN's linear layer, where PyTorch has it."""
    copy: float
    """Bytes read and written."""
    unit: float | None = None
    """FLOP of the C kernels' product on the processor's matrix unit, where it has one."""

    @property
    def flops(self) -> float:
        """Of PyTorch's products, which floors are made of: a matrix unit computes float32 beyond them."""
        return max(self.matmul, self.linear or 0.0)


def facts() -> dict[str, Any]:
    """Processor, threads, who compiled the C kernels (or why there are none), versions, date, and the code: its revision, and a digest of
    what times depend on."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "kernels": made_by(),
        "packages": versions(*PACKAGES),
        "revision": _revision(),
        "code": _code(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def heading() -> str:
    """What a table of times on a CPU was measured with, in a line."""
    made_with = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32, {time.strftime('%Y-%m-%d')}"
    return f"{made_with}; C kernels: {made_by()}{', matrix unit' if has_matrix_unit() else ''}"


def measure_rates(
    *, device: str = "cpu", dtype: torch.dtype = torch.float32, side: int = SIDE, numbers: int = COPY, tries: int = 5
) -> Rates:
    """The best of a few tries each: a floor is what the machine can do, not what it does on average."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(a)
    work = 2.0 * side**3
    has_unit = device == "cpu" and dtype is torch.float32 and has_matrix_unit()
    linear = _onednn() if device == "cpu" else None
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return Rates(
        matmul=work / _best(lambda: torch.mm(a, b, out=result), device, tries),
        linear=None if linear is None else work / _best(lambda: linear(a, b), device, tries),
        copy=2 * source.nbytes / _best(lambda: target.copy_(source), device, tries),
        unit=work / _best(lambda: linear_maps([a], [b], [None], None), device, tries) if has_unit else None,
    )


def synchronize_of(device: str) -> Callable[[], object]:
    """What waits until a device has done its work."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def _onednn() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """oneDNN's linear layer; None where this build or processor has none."""
    try:
        found = torch.ops.mkldnn._linear_pointwise
        found(torch.ones(2, 2), torch.ones(2, 2), None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return lambda a, b: found(a, b, None, "none", [], "")


def _best(call: Callable[[], object], device: str, tries: int) -> float:
    """Seconds of the fastest of a few calls, each long enough to be timed."""
    synchronize = synchronize_of(device)
    times: list[float] = []
    count = 1
    for _ in range(tries + 1):
        synchronize()
        began = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        times.append((time.perf_counter() - began) / count)
        count = max(1, min(100, round(SHORT / max(times[0], 1e-9))))
    return min(times)


def _code() -> str:
    """A digest of the package's sources, but for those that only present what was measured."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.parent.rglob("*") if path.suffix in {".py", ".c", ".h"}):
        if path.parent.name != "cli" and not (path.parent == folder and path.stem in PRESENTING):
            digest.update(path.relative_to(folder.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _revision() -> str | None:
    """Of the checkout that this file is in, with a + where files differ from it; None outside one."""
    folder = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in folder.parents):
        return None
    try:
        found, changed = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=20)
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "--", "."])
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "") if found.returncode == 0 else None
