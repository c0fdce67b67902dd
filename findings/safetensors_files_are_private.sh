#!/usr/bin/env bash
# safetensors 0.8.0: save_file leaves a file that its owner alone can read (0600), whatever the umask says, and an existing file that others
# could read becomes so, too. Files written by open(), np.save, json and torch.save follow the umask. So a checkpoint in a shared folder opens
# for the one who saved it alone: config.json can be read by everybody and model.safetensors cannot. A good guess is that the umask decides.
#
# Seen when written (safetensors 0.8.0, numpy 2.4.6, Python 3.11, Linux x86-64), umask 022:
#   open(): 644, np.save: 644, save_file: 600
#   a file of mode 644 saved over: np.save 644, save_file 600
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "safetensors==0.8.0" "numpy==2.4.6" 2>"$work/log" || { cat "$work/log"; exit 2; }
cd "$work"
"$work/venv/bin/python" - <<'PY'
import os
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save_file

print("safetensors", safetensors.__version__)
os.umask(0o022)
array = np.zeros(3, dtype=np.float32)


def mode(name):
    return oct(Path(name).stat().st_mode & 0o777)[2:]


Path("plain.json").write_text("{}")
np.save("array.npy", array)
save_file({"a": array}, "new.safetensors")
first = mode("plain.json"), mode("array.npy"), mode("new.safetensors")
print("open(): {}, np.save: {}, save_file: {}".format(*first))

Path("old.safetensors").write_bytes(b"")
for name in ("array.npy", "old.safetensors"):
    Path(name).chmod(0o644)
np.save("array.npy", array)
save_file({"a": array}, "old.safetensors")
second = mode("array.npy"), mode("old.safetensors")
print("a file of mode 644 saved over: np.save {}, save_file {}".format(*second))
sys.exit(0 if (first, second) == (("644", "644", "600"), ("644", "600")) else "changed")
PY
