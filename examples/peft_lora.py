"""Adapt a saved language model with LoRA, by PEFT: a byte model of Python source code learns the prose of Python's manual.

Prints bits per byte of unseen manual before and after, those of source code with the adapter switched off again, how many weights were
trained, and by how much the merged model differs from the one with the adapter, at most.

On two cores: 11 seconds; from 3.07 to 2.64 bits per byte of manual with 12.2 % of the weights trained, code at 3.59 as before.
"""

import argparse
import sysconfig
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from subquadratic.hf import SubquadraticConfig, SubquadraticForCausalLM


def read_text() -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of source code, and of the manual that `help()` shows."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    code = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))[:40])
    return torch.tensor(list(code)), torch.tensor(list((folder / "pydoc_data" / "topics.py").read_bytes()))


def windows(text: torch.Tensor, count: int, generator: torch.Generator, length: int = 192) -> torch.Tensor:
    """(count, length) pieces from random places."""
    starts = torch.randint(0, len(text) - length, (count, 1), generator=generator)
    return text[starts + torch.arange(length)]


def train(model: torch.nn.Module, text: torch.Tensor, steps: int, generator: torch.Generator) -> None:
    """Train what has a gradient."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=5e-3)
    for _ in range(steps):
        batch = windows(text, 8, generator)
        model.train()(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def bits(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Mean bits per byte."""
    return model(input_ids=tokens, labels=tokens).loss.item() / 0.6931


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, adapt and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    steps, generator = parser.parse_args(argv).steps, torch.manual_seed(0)
    code, manual = read_text()
    seen, unseen, known = manual[:-40_000], windows(manual[-40_000:], 16, generator), windows(code, 16, generator)
    model = SubquadraticForCausalLM(SubquadraticConfig(backbone={"model_type": "performer", "dim": 64, "depth": 2, "heads": 4}))
    train(model, code, steps, generator)
    figures = {"code": bits(model, known), "before": bits(model, unseen)}

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/base")
        adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        trained, whole = adapted.get_nb_trainable_parameters()
        train(adapted, seen, steps, generator)
        figures |= {"after": bits(adapted, unseen), "share": trained / whole}
        adapted.save_pretrained(f"{folder}/adapter")
        again = PeftModel.from_pretrained(SubquadraticForCausalLM.from_pretrained(f"{folder}/base"), f"{folder}/adapter").eval()
    with again.disable_adapter():
        figures["off"] = bits(again, known)
    logits = again(input_ids=unseen).logits
    figures["difference"] = (again.merge_and_unload()(unseen).logits - logits).abs().max().item()
    print(f"manual: {figures['before']:.2f} bits per byte before, {figures['after']:.2f} after; trained weights: {figures['share']:.1%}")
    print(f"code: {figures['code']:.2f} before, {figures['off']:.2f} with the adapter off; merged differs by {figures['difference']:.1e}")
    return figures


if __name__ == "__main__":
    main()
