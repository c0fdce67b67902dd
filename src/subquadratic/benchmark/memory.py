"""What one call takes beyond the weights: the highest resident size during it, less the resident size before it.

On a CPU each side is measured in a process of its own, which builds it, runs a few small operations so that libraries and their threads are
there, gives back what building left behind, sets the kernel's peak back, and makes one call. So neither another side's memory nor what was
freed before counts, and gradients do, which a call makes. On a GPU the allocator knows its peak.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import Case

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above(call: Callable[[], object], *, device: str = "cpu") -> dict[str, int] | None:
    """Bytes `above` what there was, and the `peak` itself; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        most = torch.cuda.max_memory_allocated()
        return {"above": most - held, "peak": most}
    give_back()
    if not _reset_peak():
        return None
    level = resident("VmRSS")
    call()
    peak = resident("VmHWM")
    return None if level is None or peak is None else {"above": max(0, peak - level), "peak": peak}


def resident(name: str) -> int | None:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most; None where there is no such file."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), flags=re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def in_fresh_process(request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """What `answer` says to a request, in a new Python.

    Raises:
        RuntimeError: the process failed, or took too long; the text says what it said last.
    """
    command = [sys.executable, "-m", f"{__package__}.memory"]
    try:
        given = json.dumps({**request, "parent": os.getpid()})
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout, env=_environment())
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took more than {timeout:.0f} s") from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"no message, exit status {done.returncode}"]
        raise RuntimeError(f"failed in a process of its own: {last[0][:200]}" + (" (out of memory?)" if done.returncode == -9 else ""))
    return json.loads(done.stdout.splitlines()[-1])


def answer(request: dict[str, Any]) -> dict[str, Any] | None:
    """What a fresh process is asked: one `side` of a `case`, once (`peak_above`), or, for very long sequences, with its time
    and that of the other length before and after."""
    import torch

    from .cases import Case, again

    torch.set_num_threads(request["threads"])
    case = Case.from_dict(request["case"])
    if case.kind == "million":
        return _very_long(case)
    from .competitors import build
    from .work import Setting

    setting = Setting(dtype=getattr(torch, request["dtype"]))
    shared: dict[str, Any] = {}
    if again(request["side"], case) is not None:
        build(case.sides[0], case, setting, shared)
    work = build(request["side"], case, setting, shared)
    load_libraries()
    return peak_above(work.call)


def _very_long(case: Case) -> dict[str, Any]:
    """Seconds of a step on all of it, and before and after that on the other length, in the same way; the peak of it all."""
    import torch

    from .models import build_model
    from .work import Setting, make_tokens, training_step

    setting, length = Setting(), int(case.sides[1].partition("@")[2])
    shared: dict[str, Any] = {}
    build_model(case.sides[0], case, setting, shared)
    model = shared[case.sides[0]]
    tokens = make_tokens(case, setting, case.length + 1)
    times: dict[str, list[float]] = {side: [] for side in case.sides}
    training_step(model, lambda: model.loss(tokens[:, : min(1024, length) + 1]))()  # warm-up
    for side, part in ((case.sides[1], tokens[:, : length + 1]), (case.sides[0], tokens), (case.sides[1], tokens[:, : length + 1])):
        step = training_step(model, functools.partial(model.loss, part))
        began = time.perf_counter()
        step()
        times[side].append(time.perf_counter() - began)
    finite = all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters() if parameter.grad is not None)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {"times": times, "peak": resident("VmHWM"), "finite": finite, "parameter_bytes": weights}


def load_libraries() -> None:
    """One tiny step of everything that models are made of: threads, oneDNN and its buffers are not the model's."""
    import torch
    from torch.nn import functional as F

    x = torch.randn(1, 4, 64, 64, requires_grad=True)
    y = F.scaled_dot_product_attention(x, x, x, is_causal=True)
    y = F.gelu(F.layer_norm(F.linear(y, torch.randn(64, 64, requires_grad=True)), (64,))).softmax(dim=-1) @ x
    F.cross_entropy(y.flatten(0, 2), torch.zeros(256, dtype=torch.int64)).backward()


def give_back() -> None:
    """Memory that is free but still held goes back to the system, where the C library can do that."""
    import torch

    from ..core.free_memory import release_free_memory

    gc.collect()
    release_free_memory(torch.device("cpu"))


def end_with(parent: int) -> None:
    """End this process when the one that started it does: what nobody waits for would slow down whatever is measured next."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()


def _reset_peak() -> bool:
    """Whether the kernel set VmHWM back to VmRSS."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    """This process's, and where it found its modules, in case that is not where a new one would look."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    end_with(given["parent"])
    found = answer(given)
    print()  # after whatever packages printed
    print(json.dumps(found))
