#!/usr/bin/env bash
# torch 2.13.0: torch.ao.quantization.quantize_dynamic(model, {nn.Linear}) looks classes up by identity. A subclass of nn.Linear that adds
# nothing stays in float32, and nothing says so; asked for by its own class it is passed over as well, since no map of that class to a
# quantised one is known. isinstance, which PyTorch's pruning and tensor parallelism and torchao's quantize_ go by, is what a good guess expects.
#
# Seen when written (torch 2.13.0+cpu, Python 3.11):
#   asked for Linear: Linear -> int8, Subclass -> float32; warnings that name the subclass: 0
#   asked for Linear and Subclass: Linear -> int8, Subclass -> float32; warnings that name the subclass: 0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys
import warnings

import torch
from torch import nn


class Subclass(nn.Linear):
    pass


print("torch", torch.__version__)
changed = False
for kinds in ({nn.Linear}, {nn.Linear, Subclass}):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), Subclass(8, 8)), kinds, dtype=torch.qint8)
    found = ["float32" if isinstance(part, nn.Linear) else "int8" for part in model]
    named = sum("Subclass" in str(one.message) for one in said)
    names = " and ".join(sorted(kind.__name__ for kind in kinds))
    print(f"asked for {names}: Linear -> {found[0]}, Subclass -> {found[1]}; warnings that name the subclass: {named}")
    changed |= found != ["int8", "float32"] or named != 0
sys.exit("changed" if changed else 0)
PY
