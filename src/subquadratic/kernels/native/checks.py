"""What a C kernel asks of its tensors before it reads a pointer: said once for each operator, and turned into one Python function.

A kernel goes by the sizes that it is told. A tensor of another size, dtype or layout would have it read and write memory that belongs to
somebody else.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bool": torch.bool, "int64": torch.int64, "int8": torch.int8}
LAYOUTS = {"rows": "({0}.stride(-1) == 1 or shape[-1] == 1)", "copied": "True", "contiguous": "{0}.is_contiguous()"}
_AXIS = re.compile(r"[A-Z]\w*")


def whole(count: int, of: int = 16) -> int:
    """``count``, filled up to whole vectors or tiles: 16 is padded_to_16 of tensor.h."""
    return -(-count // of) * of


@dataclass(frozen=True)
class Asked:
    """What an operator asks of its arguments; see :func:`asks`."""

    tensors: Mapping[str, str]
    sizes: Mapping[str, str]
    require: Mapping[str, str]

    def of(self, function: Callable[..., Any]) -> Callable[..., None]:
        """A function of an operator's arguments that raises ValueError unless each is what the kernel reads."""
        operator, parameters = function.__name__, inspect.signature(function).parameters
        given = {name for name, parameter in parameters.items() if parameter.annotation in (Tensor, Tensor | None)}
        if given != self.tensors.keys():
            raise TypeError(f"{operator} reads {', '.join(parameters)}: say of each tensor what it must be, got {', '.join(self.tensors)}")
        lines, known, pending = [f"def check({', '.join(parameters)}):"], set[str](), dict(self.sizes)
        for name, text in self.tensors.items():
            _derive(pending, known, lines)
            lines += _lines_for(operator, name, text, known, may_be_none=parameters[name].annotation is not Tensor)
        _derive(pending, known, lines)
        for condition, message in self.require.items():
            lines.append(f"    if not ({condition}): fail({operator!r}, {message!r}, locals())")
        names: dict[str, Any] = {"refuse": _refuse, "fail": _fail, "whole": whole}
        names |= {f"is_{kind}": dtype for kind, dtype in DTYPES.items()}
        exec(compile("\n".join(lines), f"<what {operator} asks>", "exec"), names)
        return names["check"]


def asks(*, sizes: Mapping[str, str] | None = None, require: Mapping[str, str] | None = None, **tensors: str) -> Asked:
    """Shapes, dtypes and layouts of an operator's tensors.

    Args:
        sizes: axes that come from elsewhere than a tensor's shape, as Python expressions of arguments and of other axes.
        require: what else must hold, as expressions, and what to say where it does not, with ``{}`` around axes and arguments.
        tensors: of each its axes (``"B H N K"``: names, numbers, or expressions without spaces), several shapes divided by ``|``; behind a
            comma "rows" (a row's numbers lie side by side, rows may lie apart) or "copied" (they may lie anyhow), else it is contiguous;
            "bool", "int8" or "int64", else it is float32. None passes where the function takes it: PyTorch hands it through for any tensor.
            The first tensor that has an axis, which may not be None, says how long it is.

    Source is made of it and compiled: the check runs before each call of operators that take 50 microseconds for a new token.
    """
    return Asked(tensors, sizes or {}, require or {})


def on_one_device(operator: str, arguments: Sequence[Any]) -> None:
    """Raise ValueError unless all tensors lie on one device: where one has no memory, PyTorch asks the operator's stand-in alone."""
    first: Tensor | None = None
    for value in arguments:
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(tensor, Tensor):
                continue
            if first is None:
                first = tensor
            elif tensor.device != first.device:
                raise ValueError(f"{operator}: all tensors must lie on one device, got {first.device} and {tensor.device}")


def check_tensor(
    operator: str, name: str, x: Tensor | None, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, layout: str = "contiguous"
) -> None:
    """The same for one tensor: of a list, or of a shape that is known later."""
    x = required(operator, name, x)
    apart = {"contiguous": lambda: x.is_contiguous(), "rows": lambda: x.stride(-1) == 1 or shape[-1] == 1, "copied": lambda: True}
    if x.shape != shape or x.dtype is not dtype or not apart[layout]():
        _refuse(operator, name, f"{' '.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}, {layout}", x, {})


def required(operator: str, name: str, x: Tensor | None, kind: str = "a float32 tensor") -> Tensor:
    """``x``, unless it is None: PyTorch hands that through for a tensor, whatever an operator's schema says."""
    if x is None:
        raise ValueError(f"{operator}: {name} must be {kind}, got None")
    return x


def _parts(text: str) -> tuple[list[list[str]], str, str]:
    """Shapes, dtype and layout of what was written."""
    axes, *kinds = (part.strip() for part in text.split(","))
    dtype = next((kind for kind in kinds if kind in DTYPES), "float32")
    layout = next((kind for kind in kinds if kind in LAYOUTS), "contiguous")
    return [shape.split() for shape in axes.split("|")], dtype, layout


def _lines_for(operator: str, name: str, text: str, known: set[str], *, may_be_none: bool) -> list[str]:
    shapes, dtype, layout = _parts(text)
    new = [axis for axis in shapes[0] if _AXIS.fullmatch(axis) and axis not in known]
    known.update(new)
    refuse = f"refuse({operator!r}, {name!r}, {text!r}, {name}, locals())"
    apart = " and ".join(f"shape != ({''.join(f'{axis}, ' for axis in shape)})" for shape in shapes)
    if new and may_be_none:
        raise TypeError(f"{operator}: {name} may be None, so that it cannot be the first to say how long {', '.join(new)} is")
    lines = [f"if {name} is not None:"] if may_be_none else [f"if {name} is None: {refuse}", "else:"]
    lines.append(f"    shape = {name}.shape")
    if new:
        lines.append(f"    if len(shape) != {len(shapes[0])}: {refuse}")
        lines += [f"    {axis} = shape[{shapes[0].index(axis)}]" for axis in new]
    lines.append(f"    if {apart} or {name}.dtype is not is_{dtype} or not {LAYOUTS[layout].format(name)}: {refuse}")
    return [f"    {line}" for line in lines]


def _derive(pending: dict[str, str], known: set[str], lines: list[str]) -> None:
    """Lines for the sizes whose axes are all known by now."""
    for axis, expression in list(pending.items()):
        if known.issuperset(_AXIS.findall(expression)):
            lines.append(f"    {axis} = {expression}")
            known.add(axis)
            del pending[axis]


def _refuse(operator: str, name: str, text: str, x: Tensor | None, sizes: dict[str, Any]) -> None:
    shapes, dtype, layout = _parts(text)
    written = []
    for shape in shapes:
        numbers = [str(_size(axis, sizes)) for axis in shape]
        written.append(f"({', '.join(shape)})" + (f" = ({', '.join(numbers)})" if numbers != shape else ""))
    kind = f"{' or '.join(written)}, {dtype}, {'rows contiguous' if layout == 'rows' else layout}"
    x = required(operator, name, x, kind)
    raise ValueError(
        f"{operator}: {name} must be {kind}, got {tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}, with strides {x.stride()}"
    )


def _size(axis: str, sizes: dict[str, Any]) -> Any:
    try:
        return eval(axis, {"whole": whole}, sizes)
    except NameError:  # an axis that this tensor was to say
        return axis


def _fail(operator: str, message: str, sizes: dict[str, Any]) -> None:
    raise ValueError(f"{operator}: {message.format(**sizes)}")
