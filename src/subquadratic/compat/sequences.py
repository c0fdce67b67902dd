"""The residual stacks of performer-pytorch and linformer under their published module names, plain and reversible.

``net.layers[3][0].fn`` in the plain stack is ``net.blocks[3].f.net.fn`` in the reversible one, and so in ``named_parameters``. State dicts
have the names of the plain stack for both, so that ``reversible`` stays how a model runs and not what it is; ``net.layers`` finds the same
modules in both.

Axes: B batch, N length, D width.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..layers.norms.layer import sum_and_norm
from ..layers.reversible import run_reversible
from ..layers.untouched import is_untouched

Routes = Mapping[str, tuple[tuple[bool, bool], ...]]  # argument -> per layer, whether its first and its second branch take it


@dataclass(frozen=True)
class Routed:
    """One branch of a stack, and which of the arguments of the stack's ``forward`` it takes."""

    module: nn.Module
    reads: tuple[str, ...]

    def __call__(self, x: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """What the branch adds to the residual stream: (B, N, D) -> (B, N, D)."""
        return self.module(x, **self.select(arguments))

    def select(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that are for this branch."""
        return {name: arguments[name] for name in self.reads if arguments.get(name) is not None}


class SequentialSequence(nn.Module):
    """Branches one after another, each added to the stream.

    Args:
        layers: pairs of branches, attention and feed-forward.
        args_route: which branch takes which argument of ``forward``.
    """

    reversible = False

    def __init__(self, layers: nn.ModuleList, args_route: Routes | None = None):
        super().__init__()
        self.layers = layers
        self.args_route = dict(args_route or {})
        self.register_load_state_dict_pre_hook(_load_plain_names)

    def branches(self) -> list[Routed]:
        """Every branch, in the order in which they run."""
        return _routed(self.layers, self.args_route)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        delta = None
        for branch in self.branches():
            module = branch.module
            both = sum_and_norm(module.norm, x, delta) if is_untouched(module, PreLayerNorm, PreNorm) else None
            if both is not None:  # the sum and its norm in one pass; nobody listens to the wrapper or replaced the norm
                x, normed = both
                delta = module.fn(normed, **branch.select(arguments))  # type: ignore[operator]
            else:
                x = x if delta is None else x + delta
                delta = branch(x, arguments)
        return x if delta is None else x + delta


class Deterministic(nn.Module):
    """Holds a branch of a reversible block, under the published name ``net``."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """As ``net``."""
        return self.net(x, **arguments)


class ReversibleBlock(nn.Module):
    """Two branches ``f`` and ``g`` that take turns. :class:`ReversibleSequence` runs the branches of all its blocks itself."""

    def __init__(self, f: nn.Module, g: nn.Module):
        super().__init__()
        self.f, self.g = Deterministic(f), Deterministic(g)


class ReversibleSequence(nn.Module):
    """Two streams that begin as x and take turns; activations are recomputed in backward. The result is the sum of the streams.

    Args:
        blocks, args_route: as ``layers`` and ``args_route`` of :class:`SequentialSequence`.
    """

    reversible = True

    def __init__(self, blocks: Iterable[Any], args_route: Routes | None = None):
        super().__init__()
        self.args_route = dict(args_route or {})
        self.blocks = nn.ModuleList(ReversibleBlock(f, g) for f, g in blocks)
        self.register_state_dict_post_hook(_save_plain_names)
        self.register_load_state_dict_pre_hook(_load_reversible_names)
        self.register_load_state_dict_post_hook(_report_plain_names)

    @property
    def layers(self) -> nn.ModuleList:
        """The branches as the plain stack has them."""
        blocks: Any = self.blocks
        return nn.ModuleList(nn.ModuleList((block.f.net, block.g.net)) for block in blocks)

    def branches(self) -> list[Routed]:
        """Every branch, in the order in which they run."""
        return _routed(((block.f, block.g) for block in self.blocks), self.args_route)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        branches = self.branches()
        return 2 * run_reversible(branches, x, arguments, modules=[branch.module for branch in branches])


class PreLayerNorm(nn.Module):
    """A layer norm before ``fn``, as performer-pytorch has it."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fn(self.norm(x), **arguments)


class PreNorm(nn.Module):
    """The same in linformer, whose parameters come in the other order."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, **arguments: Any) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fn(self.norm(x), **arguments)


def _routed(pairs: Iterable[Any], routes: Routes) -> list[Routed]:
    return [
        Routed(module, tuple(name for name, layers in routes.items() if layers[index][turn]))
        for index, pair in enumerate(pairs)
        for turn, module in enumerate(pair)
    ]


def _plain_name(name: str) -> str:
    return re.sub(r"\bblocks\.(\d+)\.([fg])\.net\.", lambda match: f"layers.{match[1]}.{'fg'.index(match[2])}.", name, count=1)


def _reversible_name(name: str) -> str:
    return re.sub(r"\blayers\.(\d+)\.([01])\.", lambda match: f"blocks.{match[1]}.{'fg'[int(match[2])]}.net.", name, count=1)


def _rename(state_dict: dict[str, Any], prefix: str, spell: Any) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = prefix + spell(key.removeprefix(prefix))
        if name != key:
            state_dict[name] = state_dict.pop(key)


def _save_plain_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state_dict, prefix, _plain_name)


def _load_plain_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state_dict, prefix, _plain_name)


def _load_reversible_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state_dict, prefix, _reversible_name)


def _report_plain_names(module: nn.Module, found: Any) -> None:
    """What is missing is said by the name under which it is saved."""
    found.missing_keys[:] = [_plain_name(key) for key in found.missing_keys]
