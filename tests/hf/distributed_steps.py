"""A program for `test_distributed.py`: a few steps of the Trainer in one process or several, and what came of them.

    torchrun --nproc_per_node=2 -m tests.hf.distributed_steps MODEL TIED (single|ddp|fsdp) OUT [CHECKPOINT]

Writes losses.json, and the model into OUT/saved.
"""

import json
import sys
from pathlib import Path

import torch
from tests.hf.models import causal, tokens
from torch import distributed
from transformers import Trainer, TrainingArguments


def let_cpus_shard() -> None:
    """accelerate shards on GPUs alone, and trains with DDP on CPUs without a word: let it take these for GPUs."""
    from accelerate import state
    from accelerate.utils import DistributedType

    distributed.init_process_group("gloo")
    state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    state.PartialState._prepare_backend = lambda self, cpu, *a, **k: ("gloo", DistributedType.MULTI_XPU)


def main(name: str, tied: str, way: str, out: str, checkpoint: str | None = None) -> None:
    if way == "fsdp":
        let_cpus_shard()
    model = causal(name, tie=tied == "tied")
    data = [{"input_ids": tokens(1, 9, seed=row)[0], "labels": tokens(1, 9, seed=row)[0]} for row in range(16)]
    for row in data:
        row["labels"] = row["labels"].masked_fill(torch.arange(9) > row["input_ids"][0] % 6 + 2, -100)  # unequal counts
    processes = 1 if way == "single" else 2
    sharding = {"fsdp": True, "fsdp_config": {"version": 2}} if way == "fsdp" else {}
    arguments = TrainingArguments(
        out, max_steps=4, per_device_train_batch_size=8 // processes, learning_rate=1e-2, logging_steps=1, save_steps=2, report_to="none",
        disable_tqdm=True, use_cpu=way != "fsdp", max_grad_norm=0.5, bf16=False, **sharding,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=checkpoint)
    if way == "fsdp":
        kinds = {type(parameter.data).__name__ for parameter in trainer.model.parameters()}
        assert kinds == {"DTensor"}, f"nothing was sharded: {kinds}"
    elif way == "ddp":
        assert type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
    trainer.save_model(f"{out}/saved")
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        Path(out, "losses.json").write_text(json.dumps(losses))
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
