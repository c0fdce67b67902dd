"""A function of tensors as the straight list of PyTorch calls that it makes: without the Python between them.

One new token costs a model some hundred small operations, and as much time again goes into modules, checks and arguments around them. These
come out the same at every token. Recorded once, the calls are written down as the lines of one Python function.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Program = Callable[..., tuple[Tensor, ...]]

# What tells about a tensor without looking at its numbers: the same whenever shapes are.
ABOUT = {
    "__get__", "__len__", "dim", "element_size", "get_device", "is_complex", "is_contiguous", "is_floating_point", "is_inference",
    "ndimension", "nelement", "numel", "size", "storage_offset", "stride",
}  # fmt: skip
# They make no copy.
VIEWS = {"view", "expand", "transpose", "t", "unsqueeze"}
# Of numbers that no call changes they make the same ones every time, and need not be called again.
PURE = {"arange", "add", "mul", "div", "pow", "__rpow__", "__rdiv__", "reciprocal", "to", "cos", "sin"}
# They change their first argument.
CHANGING = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
# Their results have as many entries as the numbers say.
COUNTING = {"masked_select", "nonzero", "argwhere", "unique", "unique_consecutive", "bincount", "repeat_interleave"}


class Recording:
    """A function as recorded. It holds none of the constants that the function read, so that whoever owns them can let them go."""

    def __init__(self, bind: Callable[[list[Tensor]], Program]):
        self._bind = bind

    def bind(self, constants: Iterable[Tensor]) -> Program:
        """A function of the inputs that reads these constants where they lie: as many as were recorded, of the same shapes, in the same
        order. Views of them are taken now."""
        return self._bind(list(constants))


def record(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], constants: Iterable[Tensor]
) -> tuple[list[Tensor], Recording | None]:
    """Call a function, and write down how to do it again.

    Args:
        function: of ``inputs``, to tensors. What it computes may depend on shapes and on Python values, which are as now in every later
            call, and on ``constants``, which are read anew where they lie now.
        inputs: tensors.
        constants: all other tensors that it reads.

    Returns:
        The results, and a recording that makes them of other inputs of the same shapes, types and layouts; None in its place where a value
        was looked at that may be another one then, or a tensor came from nowhere.
    """
    recorder = _Recorder(inputs, constants)
    with recorder:
        results = list(function(*inputs))
    return results, recorder.recording(results)


class _Recorder(TorchFunctionMode):
    def __init__(self, inputs: Sequence[Tensor], constants: Iterable[Tensor]):
        super().__init__()
        self.parameters = [f"i{number}" for number in range(len(inputs))]
        self.names = {id(tensor): name for name, tensor in zip(self.parameters, inputs, strict=True)}
        self.alive: list[Any] = [*inputs]  # so that no other object gets their identity
        constants = list(constants)
        self.constants = {id(tensor): f"w{number}" for number, tensor in enumerate(constants)}  # w: and their views
        self.alive += constants
        self.fixed: set[str] = set()  # tensors of this recording's own that hold the same numbers every time
        self.near: set[str] = set()  # and those that may lie in their memory
        self.objects: dict[str, Any] = {}  # what lines name beside inputs and results
        self.functions: dict[Any, str] = {}
        self.bound: list[str] = []  # lines that need constants alone
        self.lines: list[tuple[list[str], list[str], str]] = []  # names given, names read, the call
        self.views: dict[str, str] = {}
        self.refused: str | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if hasattr(function, "in_one_call") and isinstance(result, tuple):  # what it gives back must not go by the argument's name
            result = tuple(part.view(part.shape) if id(part) in self.names else part for part in result)
        if self.refused is None:
            self._note(function, args, kwargs, result)
        return result

    def _note(self, function: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        name = getattr(function, "__name__", "")
        changes = name in CHANGING or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs
        several = not isinstance(result, Tensor)
        results = list(result) if isinstance(result, (tuple, list)) else [] if result is None else [result]
        silent = result is None and not changes and not hasattr(function, "in_one_call")
        if silent or not all(isinstance(part, Tensor) for part in results):
            if name not in ABOUT:
                self.refused = f"{name} gives no tensor"
            return
        if name in COUNTING or (name == "__getitem__" and _selects(args[1])):
            self.refused = f"{name} makes as many entries as the numbers say"
            return
        if not several and not changes and (id(result) in self.names or id(result) in self.constants):
            return  # the tensor itself, as `to` and `contiguous` give it where there is nothing to do
        read: list[str] = []
        try:
            given = [self._written(value, read) for value in args]
            given += [f"{key}={self._written(value, read)}" for key, value in kwargs.items()]
        except LookupError:
            self.refused = f"{name} reads a tensor that came from elsewhere"
            return
        if changes and not self.near.isdisjoint(read):
            self.refused = f"{name} may change what is made but once"
            return
        is_near = name not in PURE and not self.near.isdisjoint(read)
        is_fixed = self.fixed.issuperset(read)
        of_constants = any(name[0] == "w" for name in read)
        read = [name for name in read if name[0] not in "cw"]
        if name in PURE and is_fixed and not several and not changes:
            self._keep(result, is_fixed)
            return
        if function not in self.functions:
            self.functions[function] = self._object(getattr(function, "as_recorded", function))
        call = f"{self.functions[function]}({', '.join(given)})"
        view = name in VIEWS or (name == "__getitem__" and _slices(args[1]))
        if view and not read and not of_constants:
            self._keep(result, is_fixed)
            return
        if view and not read and call not in self.views:
            self.views[call] = self.names[id(result)] = f"w_{len(self.bound)}"
            self.alive.append(result)
            self.bound.append(f"{self.views[call]} = {call}")
            return
        if view and call in self.views:  # of the same tensor again
            self.names[id(result)] = self.views[call]
            self.alive.append(result)
            return
        names = []
        for tensor in results if not changes else []:
            names.append(f"v{len(self.alive)}")
            self.names[id(tensor)] = names[-1]
            self.alive.append(tensor)
        if is_near:
            self.near.update(names)
        if view:
            self.views[call] = names[0]
        self.lines.append((names, read, (f"{', '.join(names)}{',' * several} = " if names else "") + call))

    def _keep(self, result: Tensor, is_fixed: bool) -> None:
        name = self.names[id(result)] = self._object(result)
        self.alive.append(result)
        if is_fixed:
            self.fixed.add(name)
            self.near.add(name)

    def _written(self, value: Any, read: list[str]) -> str:
        if isinstance(value, Tensor):
            name = self.names.get(id(value))
            if name is None:
                name = self.names[id(value)] = self.constants[id(value)]
            read.append(name)
            return name
        if value is None or value is True or value is False or type(value) in (int, str) or (type(value) is float and math.isfinite(value)):
            return repr(value)
        if type(value) is tuple:
            return f"({''.join(self._written(part, read) + ', ' for part in value)})"
        if type(value) is list:
            return f"[{', '.join(self._written(part, read) for part in value)}]"
        if type(value) is slice:
            return f"slice({self._written(value.start, read)}, {self._written(value.stop, read)}, {self._written(value.step, read)})"
        return self._object(value)

    def _object(self, value: Any) -> str:
        name = f"c{len(self.objects)}"
        self.objects[name] = value
        return name

    def recording(self, results: list[Tensor]) -> Recording | None:
        """The lines as a function; tensors go when nothing needs them any more: memory is used again while it is in the cache."""
        read: list[str] = []
        try:
            returned = self._written(tuple(results), read)
        except LookupError:
            self.refused = self.refused or "a result came from elsewhere"
        if not self.near.isdisjoint(read):
            self.refused = self.refused or "a result may lie in what is made but once"
        if self.refused is not None:
            return None
        needed, body = set(read), [f"    return {returned}"]
        for names, used, call in reversed(self.lines):
            if names and needed.isdisjoint(names):
                continue
            last = [name for name in dict.fromkeys([*used, *names]) if name not in needed]
            needed.update(used)
            body.append(f"    {call}" + (f"; del {', '.join(last)}" if last else ""))
        program = [f"def program({', '.join(self.parameters)}):", *reversed(body)]
        weights = "".join(f"{name}, " for name in self.constants.values())
        unpacked = [f"{weights}= weights"] if weights else []
        lines = [*unpacked, *self.bound, *program, "return program"]
        exec(compile("\n    ".join(["def bind(weights):", *lines]), "<recorded calls>", "exec"), self.objects)
        return Recording(self.objects["bind"])


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _slices(index: Any) -> bool:
    """Whether an index makes no copy."""
    return all(part is None or part is Ellipsis or isinstance(part, slice) or type(part) is int for part in _parts(index))


def _selects(index: Any) -> bool:
    """Whether an index picks as many entries as a mask has."""
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in _parts(index))
