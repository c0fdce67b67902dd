"""How a CUDA graph is captured, and what cannot be: PyTorch's side of `cuda_graph.py`."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WARM_UPS = 2  # calls before the capture, in which libraries set themselves up and kernels are compiled


class CaptureError(RuntimeError):
    """A function cannot be captured; the text says why."""


class Recorder(Protocol):
    """What knows about graphs."""

    def place(self, device: torch.device) -> Hashable | None:
        """Where the caller's work goes at present, to replay it there and nowhere else; None: no capture now."""

    def capture(self, function: Callable[[], list[Tensor]], place: Hashable) -> tuple[Callable[[], None], list[Tensor]]:
        """A call that repeats ``function``, and the outputs which it then writes over. Raises CaptureError."""


class CudaRecorder:
    """Captures on streams of its own. Graphs of one stream share their memory, since they run one after another."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._alive: dict[Hashable, weakref.WeakSet[torch.cuda.CUDAGraph]] = {}

    def place(self, device: torch.device) -> Hashable | None:
        """The device and its current stream."""
        if torch.cuda.is_current_stream_capturing():
            return None
        return device, torch.cuda.current_stream(device)

    def capture(self, function: Callable[[], list[Tensor]], place: Any) -> tuple[Callable[[], None], list[Tensor]]:
        """As PyTorch's notes on CUDA graphs ask: warmed up and captured on a side stream."""
        device, current = place
        alive = self._alive.setdefault(place, weakref.WeakSet())
        pool = next((graph.pool() for graph in alive), None)  # a pool whose graphs are gone must not be asked for again
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            side = self._streams.setdefault(device, torch.cuda.Stream(device))
            try:
                side.wait_stream(current)
                try:
                    with torch.cuda.stream(side):
                        for _ in range(WARM_UPS):
                            function()
                finally:
                    current.wait_stream(side)
                # Other threads, as those of a data loader, may go on talking to the device.
                with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"), NoWaiting():
                    outputs = function()
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "captur" in str(error).lower():
                    raise CaptureError(str(error).partition("\n")[0]) from error
                raise
            finally:
                torch.cuda.set_stream(current)  # a capture that fails at its end leaves its own stream behind
        alive.add(graph)
        return graph.replay, outputs


class NoWaiting(TorchDispatchMode):
    """Raises CaptureError before an operation that waits for the device. Begun in a capture, it could leave PyTorch's generators, which
    sampling needs, in a state of capture."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run ``func`` unless it waits."""
        if _waits(func, args, kwargs or {}):
            raise CaptureError(f"it cannot be captured that {func} asks the device for values")
        return func(*args, **(kwargs or {}))


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if torch.Tag.data_dependent_output in func.tags:
        return True
    name = func.overloadpacket.__name__
    if name in ("_to_copy", "copy_"):
        devices = {kwargs.get("device") or args[0].device, *(arg.device for arg in args[:2] if isinstance(arg, Tensor))}
        return len({torch.device(device).type for device in devices}) > 1
    if name in ("index", "index_put", "index_put_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags and kwargs.get("output_size") is None
