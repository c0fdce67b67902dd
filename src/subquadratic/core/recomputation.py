"""Recomputing activations in backward with the tensors that modules held in forward.

PyTorch's checkpointing calls a module again in backward and reads what it holds by then: under ``torch.func.functional_call``, whose
tensors are gone when it returns, gradients come out wrong without a word, as they do where weights changed in between.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .free_memory import release_free_memory

UNCHANGED: Mapping[int, Tensor] = {}
_version = operator.attrgetter("_version")


class Held:
    """The parameters, buffers and modes of modules at this moment, and the versions of the tensors.

    Left alone are modules sharded by ``fully_shard``, which exchange their parameters themselves around each call.
    """

    def __init__(self, *roots: nn.Module):
        self._entries: list[tuple[dict[str, Any], str, Any]] = []
        tensors: dict[int, Tensor] = {}
        for module in {id(part): part for root in roots for part in _parts(root)}.values():
            own = module.__dict__
            self._entries.append((own, "training", module.training))
            for kind in ("_parameters", "_buffers"):
                held: Any = own.get(kind)
                for name, tensor in held.items() if isinstance(held, dict) else ():
                    if tensor is not None:
                        self._entries.append((held, name, tensor))
                        tensors[id(tensor)] = tensor
        self.tensors = list(tensors.values())
        # Gone through by C, since a Feedback model asks for each token.
        self._columns = list(zip(*self._entries, strict=True)) or [(), (), ()]
        self._watch([tensor for tensor in self.tensors if not tensor.is_inference()])

    def _watch(self, tensors: list[Tensor]) -> None:
        self._watched, self._versions = tensors, list(map(_version, tensors))

    def settle(self) -> None:
        """After forward: what it changed itself, running statistics, may change."""
        if list(map(_version, self._watched)) != self._versions:
            self._watch([tensor for tensor, version in zip(self._watched, self._versions, strict=True) if tensor._version == version])

    def check(self) -> None:
        """Before a recomputation.

        Raises:
            RuntimeError: if a tensor was modified in place since forward, as PyTorch does for all that a backward needs.
        """
        if list(map(_version, self._watched)) == self._versions:
            return
        for tensor, version in zip(self._watched, self._versions, strict=True):
            if tensor._version != version and not getattr(tensor, "_post_accumulate_grad_hooks", None):  # else stepped within backward
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: a parameter or buffer "
                    f"of shape {tuple(tensor.shape)}, which reversible=True and checkpointing=True read again in backward, is at version "
                    f"{tensor._version}; expected version {version} instead. Change weights after backward(), or compute the loss again"
                )

    @contextmanager
    def put_back(self, replaced: Mapping[int, Tensor] = UNCHANGED) -> Iterator[None]:
        """Within this context the modules hold what they held; ``replaced``: other tensors instead, by the id of the one held."""
        changed: list[tuple[dict[str, Any], str, Any]] = []
        holders, names, values = self._columns
        same = not replaced and all(map(operator.is_, map(dict.get, holders, names), values))
        try:
            for holder, name, value in () if same else self._entries:
                wanted = replaced.get(id(value), value)
                now = holder.get(name, wanted)  # who took it away has a way of its own
                if now is not wanted:
                    changed.append((holder, name, now))
                    holder[name] = wanted
            yield
        finally:
            for holder, name, now in changed:
                holder[name] = now


def recomputed(held: Held | None, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """``function(*given, **options)``, whose activations are computed again in backward, by modules as they are ``held``.

    Args:
        held: all modules that ``function`` reads; None while compiling, where a graph has its weights as inputs: see :func:`hold`.
    """
    if held is None:
        return checkpoint(function, *given, use_reentrant=False, **options)
    ran = False

    def run(*given: Any, **options: Any) -> Any:
        nonlocal ran
        if not ran:
            result = function(*given, **options)
            held.settle()
            ran = True
            return result
        held.check()
        with held.put_back():
            return function(*given, **options)

    return checkpoint(run, *given, use_reentrant=False, **options)


def hold(*roots: nn.Module) -> Held | None:
    """What :func:`recomputed` needs of the modules that a function reads."""
    return None if torch.compiler.is_compiling() else Held(*roots)


def streamed(
    root: nn.Module, step: Callable[..., tuple[Tensor, Any]], state: Any, pieces: Iterable[tuple[Tensor | None, ...]]
) -> list[Tensor]:
    """What ``step(*piece, state) -> (result, state after)`` gives of each piece of a long sequence, one after another. Activations of one
    piece exist at a time: what is kept of it is itself and the state before it.

    Args:
        root: the modules that ``step`` reads.
    """
    held, results = hold(root), []
    for piece in pieces:
        result, state = recomputed(held, _with_room, step, *piece, state)
        results.append(result)
    return results


def _with_room(step: Callable[..., Any], first: Tensor, *rest: Any) -> Any:
    release_free_memory(first.device)
    return step(first, *rest)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
        return
    yield module
    for child in module.children():
        yield from _parts(child)
