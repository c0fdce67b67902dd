#!/usr/bin/env bash
# torch 2.13.0 with onnxscript 0.7.2: torch.onnx.export(dynamo=True) gives another function in two places, without a word.
# 1. Its optimizer takes `x + c` for `x` where c is below 1e-8: it compares constants with 0 to an absolute tolerance of 1e-8. An epsilon such as
#    1e-10 that keeps 0 / 0 away is gone, and the graph gives NaN. With optimize=False it stays.
# 2. logsigmoid becomes Log(Sigmoid(x)). In float32 that is -inf from x = -104 on, where PyTorch gives x.
# A good guess is that an exported graph computes what torch.export's program does, which is right in both.
#
# Seen when written (torch 2.13.0+cpu, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, Python 3.11, Linux x86-64):
#   ratio of nothing: torch 1.0, exported nan, exported with optimize=False 1.0
#   logsigmoid(-200): torch -200.0, exported -inf, exported with optimize=False -inf
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6" "onnx==1.23.2" "onnxscript==0.7.2" "onnxruntime==1.32.0" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import logging
import sys

import onnxruntime
import torch

logging.disable(logging.ERROR)


class Ratio(torch.nn.Module):
    def forward(self, x):
        return (x + 1e-10) / (x + 1e-10)


class Gate(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.logsigmoid(x - 200)


seen, x = {}, torch.zeros(2)
for name, module in (("ratio of nothing", Ratio()), ("logsigmoid(-200)", Gate())):
    found = [module(x)[0].item()]
    for optimize in (True, False):
        program = torch.onnx.export(module, (x,), dynamo=True, optimize=optimize, verbose=False, input_names=["x"])
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        found.append(session.run(None, {"x": x.numpy()})[0][0].item())
    seen[name] = [str(value) for value in found]
    print(f"{name}: torch {found[0]}, exported {found[1]}, exported with optimize=False {found[2]}")
sys.exit(0 if seen == {"ratio of nothing": ["1.0", "nan", "1.0"], "logsigmoid(-200)": ["-200.0", "-inf", "-inf"]} else "changed")
PY
