"""The processes of one run: torchrun says in the environment how many there are, and which this is."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def said_by_first(value: str) -> str:
    """The value that the first of several processes has."""
    from accelerate.utils import broadcast_object_list

    _process_group()
    found = [value if is_first_process() else None]
    broadcast_object_list(found, from_process=0)
    return str(found[0])


def wait_for_all() -> None:
    """Until every one of several processes has come here."""
    _process_group().wait_for_everyone()


def _process_group():  # type: ignore[no-untyped-def]  # accelerate is imported here
    """Started where it is not yet."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())
