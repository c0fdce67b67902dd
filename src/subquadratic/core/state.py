"""Streaming states: frozen dataclasses of batch-first tensors that PyTorch sees as pytrees.

A state is what a causal layer or model remembers of the preceding tokens. Write one as

    @state
    class PoolState(State):
        total: Tensor  # (B, H, K)

Fields hold tensors whose first axis is the batch, other states, tuples of these, or None.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar, dataclass_transform

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

T = TypeVar("T", bound="type[State]")


class State:
    """Base of every streaming state. Never changed in place: each method returns a new one."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A state with ``function`` applied to every tensor."""
        fields = {field.name: _map(function, getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return type(self)(**fields)

    def tensors(self) -> list[Tensor]:
        """Every tensor held, in the order of the fields."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return found

    def reorder(self, index: Tensor) -> Self:
        """Row i of the result is row ``index[i]`` of this one: (B',) int64. For beam search; also drops or copies rows."""
        return self.map(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def repeat(self, count: int) -> Self:
        """Each row ``count`` times in a row: (B * count), for several samples of one prompt."""
        return self.map(lambda tensor: tensor.repeat_interleave(count, dim=0))

    def select(self, rows: Tensor | slice | list[int]) -> Self:
        """The rows that ``rows`` (indices, a slice, or a bool (B,)) picks."""
        return self.map(lambda tensor: tensor[rows])

    def detach(self) -> Self:
        """The same values, cut from the graph: truncated back-propagation."""
        return self.map(Tensor.detach)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moved, with its floating-point tensors converted. Summaries are float32 on purpose: convert only for storage."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())


@dataclass_transform(frozen_default=True)
def state(cls: T) -> T:
    """Class decorator: a frozen dataclass, registered as a pytree (so that compile, export and tree maps go through it), and as something
    that plain ``torch.load`` builds again: it holds tensors and nothing that runs."""
    cls = dataclasses.dataclass(frozen=True)(cls)  # type: ignore[assignment]
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    pytree.register_pytree_node(
        cls,
        lambda value: ([getattr(value, name) for name in names], None),
        lambda children, _: cls(**dict(zip(names, children, strict=True))),
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        flatten_with_keys_fn=lambda value: ([(pytree.GetAttrKey(name), getattr(value, name)) for name in names], None),
        to_dumpable_context=lambda context: context,
        from_dumpable_context=lambda context: context,
    )
    torch.serialization.add_safe_globals([cls])
    return cls


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, State):
        return value.map(function)
    if isinstance(value, tuple):
        return tuple(_map(function, item) for item in value)
    raise TypeError(f"a state holds tensors, states, tuples of these and None, not {type(value).__name__}")
