"""A recorder of graphs that are none: what stands for CUDA in the tests of replayed functions."""

from collections.abc import Callable, Hashable
from contextlib import nullcontext

import torch
from torch import Tensor

from subquadratic.replay import cuda_graph
from subquadratic.replay.cuda_capture import CaptureError, NoWaiting


class Again:
    """As a graph: reads its inputs where they lay at capture, writes its outputs over where they lay then."""

    def __init__(self, *, fails: bool = False, may_wait: bool = False) -> None:
        self.captured = self.replayed = 0
        self.fails, self.may_wait, self.somewhere = fails, may_wait, True

    def place(self, device: torch.device) -> Hashable | None:
        return device if self.somewhere else None

    def capture(self, function: Callable[[], list[Tensor]], place: Hashable) -> tuple[Callable[[], None], list[Tensor]]:
        if self.fails:
            raise CaptureError("it asks the device for values")
        with nullcontext() if self.may_wait else NoWaiting():
            outputs = function()
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            cuda_graph._busy.recording = True
            try:
                found = function()
            finally:
                cuda_graph._busy.recording = False
            for old, new in zip(outputs, found, strict=True):
                if old is not new:
                    old.copy_(new)

        return replay, outputs
