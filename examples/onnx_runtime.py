"""Run a trained model without PyTorch: exported to ONNX with its tokenizer, and run by ONNX Runtime in a process that has no torch.

A byte model learns source code of Python's standard library. A second process opens the folder with NumPy, tokenizers and onnxruntime,
reads unseen code in pieces of uneven length, the state going in and out, and writes on.

Prints bits per byte of unseen code in PyTorch and in ONNX Runtime, by how much the logits differ at most, the size of the folder, and what
follows `def __init__(`.

On two cores: 35 seconds, a third of it the export; 3.99 bits per byte in both, logits 6e-06 apart, 0.9 MB.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import torch

import subquadratic as sq
from subquadratic.export import onnx
from subquadratic.hf.tokenizers import stock_tokenizer

RUNNER = """
import json, sys
import numpy as np
sys.modules["torch"] = None  # importing it is an error from here on
from subquadratic.export import OnnxModel
model, tokens = OnnxModel.load(sys.argv[1]), np.load(sys.argv[1] + "/tokens.npy")
state, found, place = model.init_state(len(tokens)), [], 0
for length in (1, 100, 7, 64, 228):
    logits, state = model.extend(tokens[:, place : place + length], state)
    found, place = [*found, logits], place + length
np.save(sys.argv[1] + "/logits.npy", np.concatenate(found, axis=1))
print(json.dumps(model.generate_text("def __init__(", max_new_tokens=60, temperature=0.5, top_k=20, seed=0)))
"""


def train(steps: int, length: int = 256) -> tuple[sq.LanguageModel, torch.Tensor]:
    """A model, and rows of text that it has not seen."""
    code = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60])
    seen, unseen = torch.tensor(list(code[:-20_000])), torch.tensor(list(code[-20_000:]))
    model = sq.LanguageModel(sq.GatedLinearConfig(dim=64, depth=2, heads=2), vocab_size=260)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model.loss(seen[torch.randint(0, len(seen) - length, (8, 1)) + torch.arange(length)]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), unseen[: 8 * 400].view(8, 400)


def bits(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """Mean bits per byte."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item() / 0.6931


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, export, run and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    torch.manual_seed(0)
    model, tokens = train(parser.parse_args(argv).steps)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        onnx(model, folder, tokenizer=stock_tokenizer(None, vocab_size=260))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        np.save(f"{folder}/tokens.npy", tokens.numpy())
        done = subprocess.run([sys.executable, "-c", RUNNER, folder], stdout=subprocess.PIPE, text=True, check=True)
        ours, theirs = model(tokens), torch.from_numpy(np.load(f"{folder}/logits.npy"))
    figures = {"torch": bits(ours, tokens), "onnx": bits(theirs, tokens), "difference": (ours - theirs).abs().max().item(), "size": size}
    print("bits per byte: {torch:.2f} in PyTorch, {onnx:.2f} in ONNX Runtime; logits differ by {difference:.0e}".format(**figures))
    print(f"folder: {size / 1e6:.1f} MB; written without PyTorch:\ndef __init__({json.loads(done.stdout)}")
    return figures


if __name__ == "__main__":
    main()
