#!/usr/bin/env bash
# torch 2.13.0 (CPU): a product of a CPU matrix and a weight on the meta device, as loading or offloading leaves one, does not raise.
# It gives a CPU tensor whose numbers are whatever lay in that memory. Sums and norms of the same pair raise, batched products give a
# meta tensor. A good guess is the error that sums raise: "Expected all tensors to be on the same device".
#
# Seen when written (torch 2.13.0+cpu, Python 3.11, Linux x86-64):
#   linear: cpu tensor, not the product with any weight
#   matmul: cpu tensor, not the product with any weight
#   conv1d: cpu tensor, not the product with any weight
#   bmm: meta tensor
#   add: RuntimeError
#   layer_norm: RuntimeError
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import torch
from torch.nn import functional as F

print("torch", torch.__version__)
# Two rows that are alike have products that are alike, with any weight. Memory that held other numbers shows that none was taken.
x = torch.ones(64, 64)
weight = torch.empty(64, 64, device="meta")
cases = {
    "linear": lambda: F.linear(x, weight),
    "matmul": lambda: x @ weight,
    "conv1d": lambda: F.conv1d(x[:, :, None], weight[:, :, None]),
    "bmm": lambda: torch.bmm(x[None], weight[None]),
    "add": lambda: x + weight,
    "layer_norm": lambda: F.layer_norm(x, (64,), weight[0], weight[0]),
}
seen = {}
for name, run in cases.items():
    junk = [torch.randn(64, 64) for _ in range(8)]  # what freed memory may hold
    del junk
    try:
        y = run()
    except RuntimeError:
        seen[name] = "RuntimeError"
        continue
    if y.device.type == "cpu":
        y = y.flatten(1)
        seen[name] = "cpu tensor, " + ("a product" if torch.equal(y, y[:1].expand_as(y)) and y.any() else "not the product with any weight")
    else:
        seen[name] = f"{y.device.type} tensor"
for name, what in seen.items():
    print(f"{name}: {what}")
expected = {
    "linear": "cpu tensor", "matmul": "cpu tensor", "conv1d": "cpu tensor", "bmm": "meta tensor", "add": "RuntimeError", "layer_norm": "RuntimeError",
}
sys.exit(0 if all(seen[name].startswith(what) for name, what in expected.items()) else "changed")
PY
