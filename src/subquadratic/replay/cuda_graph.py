"""Functions replayed as CUDA graphs: hundreds of small kernels that the host starts once, and the device repeats by itself.

A function is captured when its signature (structure, shapes, dtypes, other values) comes a second time, and replayed from then on:
inputs are copied to where the graph reads them, outputs from where it leaves them. So nothing that a caller holds is ever written
over; each call costs the copies, and a graph keeps the memory of one call. What a function reads must be among its arguments or in
the key of the call.

Never captured: while autograd records, under autocast (weights would be converted at every replay), while a compiler traces or a mode
looks on, within another capture. Functions with randomness are the caller's to keep away.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ..core import backend
from .cuda_capture import CaptureError, CudaRecorder, Recorder
from .structure import flatten, rebuild

GRAPHS = 4  # of one function, at a time
NOTED = 64  # signatures that are remembered without a graph
BYTES = 1 << 29  # of inputs and outputs together: a device copies these in less than a millisecond, a host starts a hundred kernels in that


class _Graph:
    """A function captured: where its inputs go, what repeats it, what it leaves behind."""

    def __init__(self, function: Callable[..., Any], inputs: Any, fixed: tuple[Any, ...], recorder: Recorder, place: Hashable):
        given, self._inputs = flatten(inputs)[0], list[Tensor]()
        self._inputs = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in given]
        _copy(self._inputs, given)
        own = rebuild(inputs, iter(self._inputs))
        self._result: Any = None

        def work() -> list[Tensor]:
            self._result = function(*own, *fixed)
            outputs, _ = flatten(self._result)
            return [tensor if any(tensor is mine for mine in self._inputs) else tensor.contiguous() for tensor in outputs]

        self._replay, self._outputs = recorder.capture(work, place)
        # An output that is an input, such as a context that a state hands on, is the caller's own.
        handed = [next((at for at, mine in enumerate(self._inputs) if tensor is mine), None) for tensor in self._outputs]
        self._handed = handed
        self._made = [tensor for tensor, at in zip(self._outputs, handed, strict=True) if at is None]

    def __call__(self, given: list[Tensor]) -> Any:
        _copy(self._inputs, given)
        self._replay()
        fresh = [torch.empty_like(tensor) for tensor in self._made]
        _copy(fresh, self._made)
        made = iter(fresh)
        return rebuild(self._result, (next(made) if at is None else given[at] for at in self._handed))


class Replayed:
    """A function of tensors and hashable values, in tuples, lists and states of any depth: called as it is, or replayed.

    Args:
        function: pure, without randomness. Its first argument is a tensor on the device of all others.
        recorder: None: CUDA graphs on a CUDA device; elsewhere the function is just called.
        repeats: of the inputs and the result of a call, whether its signature may come again; None: always.
        graphs: how many are kept; the one used longest ago goes first.
        limit: bytes of inputs and outputs up to which copying them pays.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        recorder: Recorder | None = None,
        repeats: Callable[[tuple[Any, ...], Any], bool] | None = None,
        graphs: int = GRAPHS,
        limit: int = BYTES,
    ):
        self.function, self._recorder, self._repeats, self._most, self._limit = function, recorder, repeats, graphs, limit
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._noted: OrderedDict[Hashable, bool] = OrderedDict()  # False: cannot be captured
        self._lock = threading.RLock()

    def applies(self, tensor: Tensor) -> bool:
        """Whether a call with this first argument could be replayed at all."""
        return self._recorder is not None or tensor.is_cuda

    def __call__(self, *inputs: Any, fixed: tuple[Any, ...] = (), key: Hashable = None) -> Any:
        """``function(*inputs, *fixed)``.

        Args:
            inputs: copied; their strides do not matter.
            fixed: read where they lie, and recaptured where they lie elsewhere: weights.
            key: whatever else decides what the function does.
        """
        if not self.applies(inputs[0]) or not may_replay(inputs[0]):
            return self.function(*inputs, *fixed)
        if self._recorder is None:
            self._recorder = CudaRecorder()
        place = self._recorder.place(inputs[0].device)
        if place is None:
            return self.function(*inputs, *fixed)
        given, layout = flatten(inputs)
        weights, fixed_layout = flatten(fixed)
        lying = tuple((tensor.data_ptr(), tensor.stride()) for tensor in weights)
        signature = (place, key, settings(), layout, fixed_layout, lying)
        with self._lock:
            if signature in self._graphs:
                self._graphs.move_to_end(signature)
                return self._graphs[signature](given)
            if self._noted.get(signature) and self._record(signature, inputs, fixed, place):
                return self._graphs[signature](given)
        result = self.function(*inputs, *fixed)
        if self._noted.get(signature) is None and self._pays(inputs, given + weights, len(given), result):
            self._note(signature, True)
        return result

    def _record(self, signature: Hashable, inputs: tuple[Any, ...], fixed: tuple[Any, ...], place: Hashable) -> bool:
        assert self._recorder is not None
        _busy.recording = True
        try:
            graph = _Graph(self.function, inputs, fixed, self._recorder, place)
        except CaptureError as error:
            self._note(signature, False)
            warnings.warn(f"no CUDA graph, so that every call starts its kernels one by one: {error}", stacklevel=4)
            return False
        finally:
            _busy.recording = False
        self._noted.pop(signature, None)
        self._graphs[signature] = graph
        while len(self._graphs) > self._most:
            self._graphs.popitem(last=False)
        return True

    def _pays(self, inputs: tuple[Any, ...], tensors: list[Tensor], copied: int, result: Any) -> bool:
        outputs, _ = flatten(result)
        plain = all(type(tensor) in backend.PLAIN and tensor.device == tensors[0].device for tensor in [*tensors, *outputs])
        size = sum(tensor.numel() * tensor.element_size() for tensor in [*tensors[:copied], *outputs])
        return plain and size <= self._limit and (self._repeats is None or self._repeats(inputs, result))

    def _note(self, signature: Hashable, capturable: bool) -> None:
        self._noted[signature] = capturable
        if len(self._noted) > NOTED:
            self._noted.popitem(last=False)


_busy = threading.local()  # what is called within a capture belongs to it


def may_replay(tensor: Tensor) -> bool:
    """Whether nobody follows the operations on tensors such as this one, or changes them on the way."""
    return not (
        getattr(_busy, "recording", False)
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled(tensor.device.type)
        or backend.is_traced()
        or is_in_torch_dispatch_mode()
        or any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
    )


def settings() -> Hashable:
    """Of PyTorch and of ours, those that decide which kernels run."""
    exact = torch.are_deterministic_algorithms_enabled()
    return torch.is_inference_mode_enabled(), torch.get_float32_matmul_precision(), exact, backend.chosen_backend()


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Each to each, with one kernel a dtype where the device has one."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        pair = groups.setdefault(target.dtype, ([], []))
        pair[0].append(target)
        pair[1].append(source)
    for group in groups.values():
        torch._foreach_copy_(*group)
