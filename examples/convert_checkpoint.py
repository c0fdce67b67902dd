"""Bring an old checkpoint along: from a file that ``torch.save`` wrote to a folder that loads, with the same logits.

The model comes from the published package performer-pytorch if that is installed, and otherwise from its twin in ``subquadratic.compat``.
Prints the options that the conversion read off the shapes, which it assumed, and the difference between old and new logits. The same from a
shell: ``subq convert old.pt --from performer_pytorch --out converted --hints.heads 4 --hints.causal false``.

On two cores: 3 seconds; difference 1.8e-07 of their size (2.4e-04 with --causal, where the published model sees the future).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from subquadratic.compat import convert_checkpoint, load


def old_model(*, causal: bool) -> tuple[Any, str]:
    """A model as an old program would have built it, and whose it is."""
    try:
        from performer_pytorch import PerformerLM

        source = "the published package"
    except ImportError:
        from subquadratic.compat.performer_pytorch import PerformerLM

        source = "its twin"
    return PerformerLM(num_tokens=256, max_seq_len=128, dim=64, depth=2, heads=4, dim_head=16, causal=causal).eval(), source


@torch.no_grad()
def main(argv: list[str] | None = None) -> dict[str, float]:
    """Save, convert, load and compare; the difference over the size of the old logits, both as root mean squares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--causal", action="store_true", help="a causal model: agrees as far as the published one sees no future")
    causal = parser.parse_args(argv).causal
    torch.manual_seed(0)
    model, source = old_model(causal=causal)
    tokens = torch.randint(0, 256, (2, 128))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, converted = Path(folder) / "old.pt", Path(folder) / "converted"
        torch.save({"model": model.state_dict(), "epoch": 7}, checkpoint)
        convert_checkpoint(checkpoint, "performer_pytorch", converted, heads=4, causal=causal)
        content = json.loads((converted / "config.json").read_text())
        twin = load(converted)
    read = {name: value for name, value in content["options"].items() if name not in content["assumed"]}
    print(f"PerformerLM of {source}; read off the checkpoint or given: {', '.join(f'{name}={value}' for name, value in read.items())}")
    print(f"assumed, as shapes do not tell: {', '.join(content['assumed'])}")
    before, after = model(tokens), twin(tokens)
    difference = ((after - before).square().mean().sqrt() / before.square().mean().sqrt()).item()
    print(f"difference of the logits: {difference:.1e} of their size")
    return {"difference": difference}


if __name__ == "__main__":
    main()
