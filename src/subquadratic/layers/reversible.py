"""The reversible residual stack: activations are recomputed in backward, so memory does not grow with depth (RevNet, arXiv 1707.04585).

Streams a and b start equal; branches take turns: a += f_0(b), b += f_1(a), a += f_2(b), ... Each step can be undone by subtraction.

What a naive version gets wrong and this one is tested for: inputs without gradient, frozen parameters, parameters shared between branches,
two forwards before one backward, backward in eval mode, autocast, random numbers per call, tensors (a context) that several branches read,
other weights by the time of backward (``torch.func.functional_call``, a step in between).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from ..core.backend import is_traced
from ..core.recomputation import Held
from ..kernels.derivatives import gradients_of, is_followed

Arguments = dict[str, Any]
Branches = Sequence[Callable[[Tensor, Arguments], Tensor]]


def run_reversible(branches: Branches, x: Tensor, arguments: Arguments, *, modules: Sequence[nn.Module] | None = None) -> Tensor:
    """Mean of the two streams after all branches.

    Args:
        branches: called as ``branch(x, arguments)``, (B, N, D) -> (B, N, D).
        x: (B, N, D), the start of both streams.
        arguments: handed to each branch; floating tensors in it that need gradients get them, summed over the branches.
        modules: what each branch reads; None: the branches are modules themselves.
    """
    shared = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad]
    if is_traced() or torch.jit.is_tracing() or not torch.is_grad_enabled():
        # A compiler plans its own recomputation, other derivatives need all activations, and without gradients nothing is kept.
        return _plain(branches, x, arguments)
    held = [Held(module) for module in (branches if modules is None else modules)]  # type: ignore[arg-type]
    parameters = list({id(p): p for one in held for p in one.tensors if p.requires_grad}.values())
    if not (x.requires_grad or shared or parameters):
        return _plain(branches, x, arguments)
    first, second = _Reversible.apply(branches, arguments, shared, held, x, *(arguments[name] for name in shared), *parameters)
    return (first + second) / 2


def _plain(branches: Branches, x: Tensor, arguments: Arguments) -> Tensor:
    streams = [x, x]
    for index, branch in enumerate(branches):
        streams[index % 2] = streams[index % 2] + branch(streams[(index + 1) % 2], arguments)
    return (streams[0] + streams[1]) / 2


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, branches: Branches, arguments: Arguments, shared: list[str], held: list[Held], x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.branches, ctx.arguments, ctx.shared, ctx.held = branches, arguments, shared, held
        ctx.parameters = tensors[len(shared) :]
        ctx.replays = []
        streams = [x, x]
        for index, branch in enumerate(branches):
            ctx.replays.append(_record(x))
            streams[index % 2] = streams[index % 2] + branch(streams[(index + 1) % 2], arguments)
        if len(branches) < 2:
            streams = [stream.clone() if stream is x else stream for stream in streams]
        for one in held:
            one.settle()
        ctx.save_for_backward(*streams, x)
        return streams[0], streams[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        streams, gradient = list(ctx.saved_tensors[:2]), list(gradients)
        for held in ctx.held:
            held.check()
        if is_followed():
            return _followed(ctx, gradients)
        shared = {name: ctx.arguments[name] for name in ctx.shared}
        sums: dict[int, Tensor] = {}  # by id of the shared tensor or parameter
        for index in reversed(range(len(ctx.branches))):
            branch, held, target, source = ctx.branches[index], ctx.held[index], index % 2, (index + 1) % 2
            parameters = [p for p in held.tensors if p.requires_grad]
            ends = {id(p): p if p.is_leaf else p.detach().requires_grad_() for p in parameters}  # what they come from is not this graph's
            leaves = {name: value.detach().requires_grad_() for name, value in shared.items()}
            with torch.enable_grad(), ctx.replays[index](), held.put_back(ends):
                start = streams[source].detach().requires_grad_()
                delta = branch(start, {**ctx.arguments, **leaves})
                wanted = [start, *leaves.values(), *ends.values()]
                found: tuple[Tensor | None, ...] = (None,) * len(wanted)
                if delta.requires_grad:
                    found = torch.autograd.grad(_Root.apply(delta, gradient[target].to(delta.dtype)), wanted, allow_unused=True)
            streams[target] = streams[target] - delta.detach()
            if found[0] is not None:
                gradient[source] = gradient[source] + found[0]
            for tensor, part in zip([*shared.values(), *parameters], found[1:], strict=True):
                if part is not None:
                    sums[id(tensor)] = sums[id(tensor)] + part if id(tensor) in sums else part
        x_gradient = gradient[0] + gradient[1] if ctx.needs_input_grad[4] else None
        return None, None, None, None, x_gradient, *(sums.get(id(tensor)) for tensor in (*shared.values(), *ctx.parameters))


class _Root(torch.autograd.Function):
    """A scalar whose derivative with respect to ``output`` is ``gradient``. `torch.autograd.grad` imports SymPy to check the shape of a
    gradient that it is given, which takes 0.4 s of CPU the first time."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return output.new_ones(())

    @staticmethod
    def backward(ctx: Any, *one: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


def _followed(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Gradients that may be differentiated again: with all activations, from the beginning."""
    shared = [ctx.arguments[name] for name in ctx.shared]

    def streams(x: Tensor, *tensors: Tensor) -> list[Tensor]:
        arguments = {**ctx.arguments, **dict(zip(ctx.shared, tensors, strict=False))}
        names, both = {id(p): new for p, new in zip(ctx.parameters, tensors[len(shared) :], strict=True)}, [x, x]
        for index, branch in enumerate(ctx.branches):
            with ctx.replays[index](), ctx.held[index].put_back(names):
                delta = branch(both[(index + 1) % 2], arguments)
            both[index % 2] = both[index % 2] + delta
        return both

    given = (ctx.saved_tensors[2], *shared, *ctx.parameters)
    return None, None, None, None, *gradients_of(streams, given, ctx.needs_input_grad[4:], gradients)


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
