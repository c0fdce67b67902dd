"""A saved model's weights in several files, as transformers writes a large model."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from subquadratic.heads.files import INDEX, WEIGHTS


def split_weights(folder: Path) -> None:
    """Replace the one file of weights by two, and their index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": {name: file for file, inside in parts.items() for name in inside}}))
