"""How a streaming state goes through the modules of a model: beside the tensors of an ordinary call.

``extend`` of a model is a call of it, and of every module in it, with a :class:`Carry`: hooks, adapters and wrappers (which PyTorch runs
where modules are called) see the same tensors go in and out as in ``forward``.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

UNSET: Any = object()


class Carry:
    """A state before a call, and after it. Not a pytree, so that what copies the arguments of a call hands on the same object."""

    __slots__ = ("_after", "before")

    def __init__(self, before: Any):
        self.before, self._after = before, UNSET

    @property
    def after(self) -> Any:
        """What the module left, None included.

        Raises:
            RuntimeError: if it left nothing.
        """
        if self._after is UNSET:
            raise RuntimeError(
                "the streaming state was not carried on: whatever wraps a module of this model must hand the keyword argument `carry` to it"
            )
        return self._after

    @after.setter
    def after(self, state: Any) -> None:
        self._after = state


class Streaming(nn.Module):
    """A module whose ``forward`` takes ``carry``, and that makes its own first state with ``init_state``."""

    takes_carry = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__:  # a subclass of a user's may have a forward and an extend of its own
            parameters = inspect.signature(cls.forward).parameters.values()
            cls.takes_carry = any(one.name == "carry" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)

    def _carried(self, x: Tensor, *given: Any, state: Any, **arguments: Any) -> tuple[Tensor, Any]:
        """``extend`` as a call of this module: (B, N, D) and the state before -> (B, N, D) and the state after."""
        if not self.takes_carry:
            name = type(self).__name__
            raise TypeError(f"{name}.forward takes no `carry`, so extend cannot run it: give it that argument, or {name} its own extend")
        carry = Carry(state)
        y = self(x, *given, carry=carry, **arguments)
        return y, carry.after


def advance(module: nn.Module, x: Tensor, *given: Any, state: Any, **arguments: Any) -> tuple[Tensor, Any]:
    """Call a module on the next piece of a sequence: (B, N, D) and the state before -> (B, N, D) and the state after.

    A module with ``extend`` whose ``forward`` takes no ``carry`` (a layer of a user's own) has that called instead.
    """
    if not getattr(module, "takes_carry", False) and hasattr(module, "extend"):
        own: Any = module.extend
        return own(x, state, *given, **arguments)
    carry = Carry(state)
    y = module(x, *given, carry=carry, **arguments)
    return y, carry.after


def part_with(module: nn.Module, method: str) -> Any:
    """The module that has a method: this one, or the outermost inside an adapter around it; None: there is none."""
    if hasattr(module, method):
        return module
    return next((part for part in module.modules() if hasattr(part, method)), None)


def default_device(module: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Those given, or those of the module's first floating parameter."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return torch.device(device) if device is not None else parameter.device, dtype or parameter.dtype
    return torch.device(device or "cpu"), dtype or torch.get_default_dtype()
