"""Derivatives of operations whose backward is written by hand, beyond the first one in reverse mode.

Such a backward gives numbers and nothing that could be differentiated again, carry a tangent or be mapped over. Forwards therefore ask
:func:`is_transformed`, and compute by PyTorch's own operators where it is so. Nobody knows in forward whether the backward will be
differentiated in its turn (``create_graph=True``, which gradient penalties and Hessian-vector products need): backwards keep the arguments
of forward, and where they are followed compute the gradients anew, by autograd from the composition of PyTorch's operators. That is one
mechanism for all; :func:`differentiable` is its decorator.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Composition = Callable[..., Tensor | Sequence[Tensor | None]]


_is_compiling, _are_transforms_active = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active
_dispatch_modes, _dispatch_mode = torch._C._len_torch_dispatch_stack, torch._C._get_dispatch_mode
_PROXY, _FAKE = torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FAKE  # of make_fx; of tensors without numbers


class _Here(threading.local):
    plain = False


_here = _Here()


@contextmanager
def plain_operators() -> Iterator[None]:
    """Within this context, in this thread, everything is computed by PyTorch's own operators, which have every kind of derivative."""
    before, _here.plain = _here.plain, True
    try:
        yield
    finally:
        _here.plain = before


def is_plain() -> bool:
    """Whether :func:`plain_operators` asks for PyTorch's own operators."""
    return not torch.compiler.is_compiling() and _here.plain


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is under way, dual numbers of forward-mode differentiation may come along, or
    :func:`plain_operators` are asked for: what has only a backward written by hand cannot take part."""
    # A compiler follows what these ask, and has ways of its own.
    return not _is_compiling() and (_are_transforms_active() or forward_ad._current_level >= 0 or _here.plain)


def is_traced() -> bool:
    """Whether a compiler, an export, ``make_fx``, a transform of ``torch.func`` or forward-mode differentiation follows the operations: a
    backward by hand cannot go there."""
    return (
        _is_compiling()
        or _are_transforms_active()
        or forward_ad._current_level >= 0
        or _here.plain
        or (_dispatch_modes() > 0 and _dispatch_mode(_PROXY) is not None)
    )


def is_without_numbers() -> bool:
    """Whether ``make_fx`` follows, or tensors have shapes alone."""
    return _dispatch_modes() > 0 and any(_dispatch_mode(mode) is not None for mode in (_PROXY, _FAKE))


def is_followed() -> bool:
    """Asked in a backward: whether somebody differentiates it (``create_graph=True``), sends tangents through it, or maps over it."""
    return torch.is_grad_enabled() or is_transformed()


def has_derivative(arguments: Sequence[Any]) -> bool:
    """Whether autograd records an operator of these arguments, lists of tensors among them, or a tangent comes with one."""
    reverse, forward = torch.is_grad_enabled(), forward_ad._current_level >= 0
    return (reverse or forward) and any(
        (reverse and x.requires_grad) or (forward and forward_ad.unpack_dual(x).tangent is not None) for x in _tensors(arguments)
    )


def _tensors(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for value in arguments:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def keep(ctx: Any, arguments: Sequence[Any], *made: Tensor | None) -> None:
    """As ``ctx.save_for_backward``: all arguments of forward, as they were given, and what it made."""
    places = [place for place, value in enumerate(arguments) if isinstance(value, Tensor)]
    ctx.save_for_backward(*[arguments[place] for place in places], *made)
    others = list(arguments)
    for place in places:
        others[place] = None  # a tensor is the graph's to hold and to let go
    ctx.places, ctx.others = places, others


def kept(ctx: Any) -> tuple[list[Any], list[Any]]:
    """The arguments that :func:`keep` kept, and what forward made."""
    tensors, arguments = ctx.saved_tensors, list(ctx.others)
    for place, tensor in zip(ctx.places, tensors, strict=False):
        arguments[place] = tensor
    return arguments, list(tensors[len(ctx.places) :])


def differentiable(composition: Composition) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator for the ``backward`` of a ``torch.autograd.Function`` whose forward called :func:`keep`: where it is followed, gradients
    come from ``composition``, which takes forward's arguments and gives its outputs by PyTorch's operators (None for one that gets no
    gradient)."""

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def run(ctx: Any, *gradients: Any) -> Any:
            if not is_followed():
                return backward(ctx, *gradients)
            return tuple(gradients_of(composition, kept(ctx)[0], ctx.needs_input_grad, gradients))

        return run

    return decorate


def gradients_of(
    composition: Composition, arguments: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of each argument that needs one, themselves differentiable, from those of the outputs.

    Args:
        composition: of ``arguments``, in PyTorch's operators.
        arguments: tensors, and whatever else it takes.
        needed: for each argument, whether a gradient is wanted.
        gradients: one for each output; None: nobody asked for that output.
    """
    again = torch.is_grad_enabled()
    wanted = [isinstance(value, Tensor) and need for value, need in zip(arguments, needed, strict=True)]
    device = next(value.device.type for value in arguments if isinstance(value, Tensor))
    with torch.enable_grad(), plain_operators(), torch.autocast(device, enabled=False):
        # Other uses of a tensor are not this operation's: gradients are for new names of the arguments.
        given = [
            value if not want else value.view_as(value) if again else value.detach().requires_grad_()
            for value, want in zip(arguments, wanted, strict=True)
        ]
        outputs = composition(*given)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [
            (output, gradient.to(output.dtype))
            for output, gradient in zip(outputs, gradients, strict=True)
            if output is not None and gradient is not None and output.requires_grad
        ]
        leaves = [value for value, want in zip(given, wanted, strict=True) if want]
        if not pairs or not leaves:
            return [None] * len(given)
        outputs, gradients = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, leaves, gradients, create_graph=again, allow_unused=True))
    return [next(found) if want else None for want in wanted]
