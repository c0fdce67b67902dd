"""The reversible residual stack: activations are recomputed in backward, so memory does not grow with depth (RevNet, arXiv 1707.04585).

Streams a and b start equal; branches take turns: a += f_0(b), b += f_1(a), a += f_2(b), ... Each step can be undone by subtraction.

What a naive version gets wrong and this one is tested for: inputs without gradient, frozen parameters, parameters shared between branches,
two forwards before one backward, backward in eval mode, autocast, random numbers per call, tensors (a context) that several branches read.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import get_device_states, set_device_states

from ..kernels.derivatives import gradients_of, is_followed
from ..ops.backend import is_traced

Arguments = dict[str, Any]


def run_reversible(branches: Sequence[nn.Module], x: Tensor, arguments: Arguments) -> Tensor:
    """Mean of the two streams after all branches.

    Args:
        branches: called as ``branch(x, arguments)``, (B, N, D) -> (B, N, D).
        x: (B, N, D), the start of both streams.
        arguments: handed to each branch; floating tensors in it that need gradients get them, summed over the branches.
    """
    shared = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad]
    parameters = list({id(p): p for branch in branches for p in branch.parameters() if p.requires_grad}.values())
    if is_traced() or not torch.is_grad_enabled() or not (x.requires_grad or shared or parameters):
        # A compiler plans its own recomputation, other derivatives need all activations, and without gradients nothing is kept.
        return _plain(branches, x, arguments)
    first, second = _Reversible.apply(branches, arguments, shared, x, *(arguments[name] for name in shared), *parameters)
    return (first + second) / 2


def _plain(branches: Sequence[nn.Module], x: Tensor, arguments: Arguments) -> Tensor:
    streams = [x, x]
    for index, branch in enumerate(branches):
        streams[index % 2] = streams[index % 2] + branch(streams[(index + 1) % 2], arguments)
    return (streams[0] + streams[1]) / 2


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, branches: Sequence[nn.Module], arguments: Arguments, shared: list[str], x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.branches, ctx.arguments, ctx.shared = branches, arguments, shared
        ctx.parameters = tensors[len(shared) :]
        ctx.replays = []
        streams = [x, x]
        for index, branch in enumerate(branches):
            ctx.replays.append(_record(x))
            streams[index % 2] = streams[index % 2] + branch(streams[(index + 1) % 2], arguments)
        if len(branches) < 2:
            streams = [stream.clone() if stream is x else stream for stream in streams]
        ctx.save_for_backward(*streams, x)
        return streams[0], streams[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        if is_followed():
            return _followed(ctx, gradients)
        streams, gradient = list(ctx.saved_tensors[:2]), list(gradients)
        shared = {name: ctx.arguments[name] for name in ctx.shared}
        sums: dict[int, Tensor] = {}  # by id of the shared tensor or parameter
        for index in reversed(range(len(ctx.branches))):
            branch, target, source = ctx.branches[index], index % 2, (index + 1) % 2
            parameters = [p for p in branch.parameters() if p.requires_grad]
            leaves = {name: value.detach().requires_grad_() for name, value in shared.items()}
            with torch.enable_grad(), ctx.replays[index]():
                start = streams[source].detach().requires_grad_()
                delta = branch(start, {**ctx.arguments, **leaves})
                wanted = [start, *leaves.values(), *parameters]
                found: tuple[Tensor | None, ...] = (None,) * len(wanted)
                if delta.requires_grad:
                    found = torch.autograd.grad(delta, wanted, gradient[target].to(delta.dtype), allow_unused=True)
            streams[target] = streams[target] - delta.detach()
            if found[0] is not None:
                gradient[source] = gradient[source] + found[0]
            for tensor, part in zip([*shared.values(), *parameters], found[1:], strict=True):
                if part is not None:
                    sums[id(tensor)] = sums[id(tensor)] + part if id(tensor) in sums else part
        x_gradient = gradient[0] + gradient[1] if ctx.needs_input_grad[3] else None
        return None, None, None, x_gradient, *(sums.get(id(tensor)) for tensor in (*shared.values(), *ctx.parameters))


def _followed(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Gradients that may be differentiated again: with all activations, from the beginning."""
    shared = [ctx.arguments[name] for name in ctx.shared]
    places = {id(parameter): place for place, parameter in enumerate(ctx.parameters)}

    def streams(x: Tensor, *tensors: Tensor) -> list[Tensor]:
        arguments = {**ctx.arguments, **dict(zip(ctx.shared, tensors, strict=False))}
        parameters, both = tensors[len(shared) :], [x, x]
        for index, branch in enumerate(ctx.branches):
            own = {
                name: parameters[places[id(parameter)]]
                for name, parameter in branch.named_parameters(remove_duplicate=False)
                if id(parameter) in places
            }
            with ctx.replays[index]():
                delta = functional_call(branch, own, (both[(index + 1) % 2], arguments))
            both[index % 2] = both[index % 2] + delta
        return both

    given = (ctx.saved_tensors[2], *shared, *ctx.parameters)
    return None, None, None, *gradients_of(streams, given, ctx.needs_input_grad[3:], gradients)


def _record(x: Tensor) -> Callable[[], AbstractContextManager[None]]:
    """Remember the random and autocast state of this moment; the result makes a context that brings them back."""
    device = x.device.type
    cpu_state = torch.get_rng_state()
    devices, states = get_device_states(x) if x.device.type != "cpu" else ([], [])
    autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))

    class Replay:
        def __enter__(self) -> None:
            self.fork = torch.random.fork_rng(devices=devices, enabled=True, device_type=device if devices else "cuda")
            self.fork.__enter__()
            torch.set_rng_state(cpu_state)
            if devices:
                set_device_states(devices, states, device_type=device)
            self.cast = torch.autocast(device, enabled=autocast[0], dtype=autocast[1], cache_enabled=False)
            self.cast.__enter__()

        def __exit__(self, *error: Any) -> None:
            self.cast.__exit__(*error)
            self.fork.__exit__(*error)

    return Replay
