"""How much memory this process may still take, and what is said where there is none left."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

UNLIMITED = 1 << 60  # what cgroup v1 says for no limit is larger


def out_of_memory(error: BaseException) -> str | None:
    """One line on an allocation that failed, with what was asked for; None for any other error. PyTorch tells the CPU's in words only."""
    text, kinds = str(error), {kind.__name__ for kind in type(error).__mro__}
    if "Storage size calculation overflowed" in text:
        return "out of memory: more was asked for than a machine can have"
    if "can't allocate memory" not in text and not kinds & {"MemoryError", "OutOfMemoryError"}:
        return None
    found = re.search(r"(?:allocate|Tried to allocate) ([\d.]+) ?(\w+)", text)
    return "out of memory" + (f": there was no room for another {_gigabytes(found[1], found[2])}" if found else "")


def _gigabytes(number: str, unit: str) -> str:
    count = float(number)
    return f"{count / 1e9:,.1f} GB" if unit == "bytes" and count >= 1e8 else f"{count:,.6g} {unit}"


def available_memory(device: str = "cpu") -> int:
    """Bytes that this process may still take: what the machine (or the GPU) has free, less where a container or `ulimit` allows
    less."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    import psutil

    limits = [int(psutil.virtual_memory().available), *_cgroup_rooms(), *_process_room()]
    return max(0, min(limits))


def _process_room() -> list[int]:
    import psutil

    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            return [soft - int(psutil.Process().memory_info().vms)]
    return []


def _cgroup_rooms(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Limit less use of this process's control groups and those above them; what can be reclaimed at once counts as free."""
    rooms = []
    for folder, limit, usage, reclaimable in _groups(root, membership):
        allowed, used = _number(folder / limit), _number(folder / usage)
        if allowed is not None and used is not None and allowed < UNLIMITED:
            rooms.append(allowed - used + _statistic(folder / "memory.stat", reclaimable))
    return rooms


def _groups(root: Path, membership: Path) -> list[tuple[Path, str, str, str]]:
    """Folders of the memory controller, version 1 and 2, with the names of their files."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # In a container the path may be the host's: the root then holds the container's own limit.
        found += [(base.joinpath(*parts[:depth]), *names) for depth in range(len(parts) + 1)]
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no number
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
