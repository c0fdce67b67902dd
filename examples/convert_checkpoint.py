"""Bring an old checkpoint along: from a file that ``torch.save`` wrote to a folder that loads, with the same logits.

The model comes from the published package linformer if that is installed, and otherwise from its twin in ``subquadratic.compat``, which
has the same names. Prints the options that were read off the checkpoint, those that were assumed, and how far old and new logits differ.
The same from a shell: ``subq convert old.pt --from linformer --out converted --hints.heads 4``.

On two cores: 3 seconds; the logits differ by 1.5e-07 of their size.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from subquadratic.compat import convert_checkpoint, load


def old_model(*, length: int) -> tuple[Any, str]:
    """A model as an old program would have built it, and whose it is."""
    try:
        from linformer import LinformerLM

        source = "the published package"
    except ImportError:
        from subquadratic.compat.linformer import LinformerLM

        source = "its twin"
    return LinformerLM(num_tokens=256, dim=64, seq_len=length, depth=2, heads=4, k=32, one_kv_head=True).eval(), source


@torch.no_grad()
def main(argv: list[str] | None = None) -> dict[str, float]:
    """Save, convert, load and compare; the difference over the size of the old logits, both as root mean squares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=128)
    length = parser.parse_args(argv).length
    torch.manual_seed(0)
    model, source = old_model(length=length)
    tokens = torch.randint(0, 256, (2, length))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, converted = Path(folder) / "old.pt", Path(folder) / "converted"
        torch.save({"model": model.state_dict(), "epoch": 7}, checkpoint)
        convert_checkpoint(checkpoint, "linformer", converted, heads=4)
        content = json.loads((converted / "config.json").read_text())
        twin = load(converted)
    read = {name: value for name, value in content["options"].items() if name not in content["assumed"]}
    print(f"LinformerLM of {source}: {', '.join(f'{name}={value}' for name, value in read.items())}")
    print(f"assumed, as shapes do not tell: {', '.join(content['assumed']) or 'nothing'}")
    before, after = model(tokens), twin(tokens)
    difference = ((after - before).square().mean().sqrt() / before.square().mean().sqrt()).item()
    print(f"difference of the logits: {difference:.1e} of their size")
    return {"difference": difference}


if __name__ == "__main__":
    main()
