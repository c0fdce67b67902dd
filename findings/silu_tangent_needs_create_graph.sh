#!/usr/bin/env bash
# torch 2.13.0 (CPU): a tangent (forward-mode derivative) goes through the backward of most activations and norms, as Hessian-vector
# products by forward over reverse need it. Through that of SiLU, Mish and GroupNorm it goes with create_graph=True alone, although nobody
# differentiates that graph; without it they raise NotImplementedError, from inside torch.autograd.grad. Their neighbours GELU, softplus,
# ELU and LayerNorm take either. torch.func, which always builds the graph, hides the difference: jvp(grad(f)) works for all of them.
# A good guess is that create_graph decides whether the result can be differentiated again, not whether it can be computed.
#
# Seen when written (torch 2.13.0+cpu, Python 3.11, Linux x86-64):
#   gelu, softplus, elu, layer_norm: create_graph=False computes, create_graph=True computes, torch.func computes
#   silu, mish, group_norm: create_graph=False NotImplementedError, create_graph=True computes, torch.func computes
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

print("torch", torch.__version__)
cases = {
    "gelu": F.gelu, "softplus": F.softplus, "elu": F.elu, "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "silu": F.silu, "mish": F.mish, "group_norm": lambda x: F.group_norm(x[None], 2),
}  # fmt: skip
point, direction = torch.linspace(-1.0, 2.0, 24, dtype=torch.float64).view(4, 6), torch.ones(4, 6, dtype=torch.float64)


def along(f, create_graph):
    with forward_ad.dual_level():
        x = forward_ad.make_dual(point.clone().requires_grad_(), direction)
        try:
            (gradient,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=create_graph)
        except NotImplementedError:
            return "NotImplementedError"
        return "computes" if forward_ad.unpack_dual(gradient).tangent is not None else "no tangent"


def transformed(f):
    torch.func.jvp(torch.func.grad(lambda x: f(x).square().sum()), (point,), (direction,))
    return "computes"


seen = {name: (along(f, False), along(f, True), transformed(f)) for name, f in cases.items()}
for name, (without, with_graph, func) in seen.items():
    print(f"{name}: create_graph=False {without}, create_graph=True {with_graph}, torch.func {func}")
refusing = {"silu", "mish", "group_norm"}
expected = {name: ("NotImplementedError" if name in refusing else "computes", "computes", "computes") for name in cases}
sys.exit(0 if seen == expected else "changed")
PY
