"""Fine-tune on prompts and completions with TRL's SFTTrainer, several examples packed into one row: names of functions, and what they do.

Functions of Python's standard library that have a docstring are the data: the prompt is the line of the `def`, the completion the first
line of the docstring. Only completions count, and packed examples do not see each other.

Prints bits per byte of the completions of unseen functions before and after, how many examples a batch holds, by how much its logits differ
from those of its examples one by one, and one completion.

On two cores: 15 seconds; from 8.05 to 4.13 bits per byte, 13 examples in four rows of 256.
"""

import argparse
import ast
import sysconfig
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from subquadratic.hf import SubquadraticConfig, SubquadraticForCausalLM


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and one that ends a text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


def read_functions(files: int = 60) -> list[dict[str, str]]:
    """What is said of each function."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:files]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                arguments = ", ".join(one.arg for one in node.args.args)
                found.append({"prompt": f"def {node.name}({arguments}):\n", "completion": text.splitlines()[0][:80]})
    return found


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Fine-tune and report; the figures printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args(argv).steps
    functions, tokenizer, _ = read_functions(), byte_tokenizer(), torch.manual_seed(0)
    backbone = {"model_type": "gated_linear", "dim": 64, "depth": 2, "heads": 2}
    model = SubquadraticForCausalLM(SubquadraticConfig(backbone=backbone, vocab_size=len(tokenizer), tie_word_embeddings=True))
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            folder, max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, warmup_steps=5, packing=True, max_length=256,
            use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        data, unseen = Dataset.from_list(functions[64:]), Dataset.from_list(functions[:64])
        trainer = SFTTrainer(model, config, train_dataset=data, eval_dataset=unseen, processing_class=tokenizer)
        before = trainer.evaluate()["eval_loss"] / 0.6931
        trainer.train()
        after = trainer.evaluate()["eval_loss"] / 0.6931
        batch = next(iter(trainer.get_train_dataloader()))
    bounds = batch["cu_seq_lens_q"].tolist()
    with torch.no_grad():
        packed = model(**batch).logits
        apart = [model(batch["input_ids"][:, start:stop]).logits for start, stop in pairwise(bounds)]
        difference = (packed - torch.cat(apart, dim=1)).abs().max().item()
    print(f"completions: {before:.2f} bits per byte before, {after:.2f} after {steps} steps")
    print(f"{len(bounds) - 1} examples in a batch of {bounds[-1]} bytes; its logits differ from theirs apart by {difference:.1e}")
    prompt = tokenizer("def is_open(self):\n", return_tensors="pt", return_token_type_ids=False)
    print(tokenizer.decode(model.generate(**prompt, do_sample=True, max_new_tokens=60, temperature=0.5)[0]))
    return {"before": before, "after": after, "examples": len(bounds) - 1, "difference": difference}


if __name__ == "__main__":
    main()
