"""The Hugging Face Trainer, set up for our models: our optimizer and schedule, and checkpoints that are whole or not there."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from .checkpoints import Checkpoints
from .optimizer import make_optimizer
from .options import TrainOptions
from .problem import Batch, Problem
from .schedule import Schedule

MANY_STEPS = 10**9  # the Trainer wants a number; the clock stops the run long before


class Objective(nn.Module):
    """`forward(**batch) -> {"loss": mean nats per prediction}`: what the Trainer wraps and calls.

    The Trainer writes into a `config` it finds and, where `forward` takes any keywords, hands the division by the number
    of accumulated batches to the model. Behind this module it finds neither, and divides the mean losses itself.
    """

    accepts_loss_kwargs = False

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self.problem, self.model = problem, model

    def forward(self, **batch: Tensor) -> Batch:
        return {"loss": self.problem.loss(self.model, batch)}


class SubquadraticTrainer(Trainer):
    """The Trainer with our optimizer and our schedule, made where it makes its own, that is after it wrapped the model.

    `losses` collects the loss of every batch since whoever reads it emptied it; `gradient_norm` is the last step's, before
    clipping. `write_more(folder)` adds to a checkpoint what the Trainer does not know of.
    """

    def __init__(
        self, problem: Problem, model: Any, options: TrainOptions, *, schedule: Schedule, checkpoints: Checkpoints, output_dir: str
    ) -> None:
        self.options, self.schedule, self.checkpoints = options, schedule, checkpoints
        self.losses: list[Tensor] = []
        self.gradient_norm: float | Tensor | None = None
        self.write_more: Callable[[Path], None] = lambda folder: None
        super().__init__(
            model=Objective(problem, model),
            args=training_arguments(options, output_dir),
            train_dataset=problem.train,
            data_collator=problem.collate,
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            wrapped: Any = self.model if model is None else model
            self.optimizer = make_optimizer(
                wrapped,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LambdaLR:
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule.factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def rate(self) -> float:
        """The learning rate of the next step."""
        assert self.optimizer is not None
        return float(self.optimizer.param_groups[0]["lr"])

    def training_step(self, *arguments: Any, **more: Any) -> Tensor:
        loss = super().training_step(*arguments, **more)
        self.losses.append(loss.detach())
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self.gradient_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self.gradient_norm

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The model as `save_pretrained` writes it, where the Trainer would write its wrapper's parameters."""
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        objective: Any = self.accelerator.unwrap_model(self.model)
        objective.model.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Done before, with our own checks (`resume.py`)."""

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        step = self.state.global_step
        staging = self.checkpoints.staging(step)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.parent.mkdir(exist_ok=True)  # a run folder that was deleted is not made again
            staging.mkdir()
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del self._staging
        self.accelerator.wait_for_everyone()  # each process writes its own random numbers
        if self.args.should_save:
            inner = staging / f"checkpoint-{step}"  # the Trainer's own name
            for file in inner.iterdir():
                file.rename(staging / file.name)
            inner.rmdir()
            self.write_more(staging)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.checkpoints.complete(step)
            self.checkpoints.retain(self.options.keep)

    def _get_output_dir(self, trial: Any) -> str:
        staging: Path | None = getattr(self, "_staging", None)
        return super()._get_output_dir(trial) if staging is None else str(staging)


def training_arguments(options: TrainOptions, output_dir: str) -> TrainingArguments:
    """The Trainer's own options: only those that differ from its defaults for a reason."""
    assert options.batch_size and options.learning_rate
    bfloat16 = options.precision == "bfloat16" or (
        options.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    trackers = options.trackers()
    if trackers:  # their callbacks read where to write from the environment
        os.environ["TENSORBOARD_LOGGING_DIR"] = os.environ["TRACKIO_DIR"] = str(Path(output_dir).absolute() / "tracking")
    return TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        max_steps=MANY_STEPS if options.max_steps is None else options.max_steps,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        use_cpu=not torch.accelerator.is_available(),  # without, torchrun on a CPU would start processes that do not know of each other
        bf16=bfloat16,
        seed=options.seed,
        logging_strategy="no",  # we write metrics.jsonl ourselves, and hand the same lines to trackers
        logging_nan_inf_filter=False,
        ddp_find_unused_parameters=False,  # else every step searches the graph for what our models do not have
        remove_unused_columns=False,
        save_strategy="no",
        report_to=trackers or "none",
        run_name=Path(output_dir).name,
        project="subquadratic",
        disable_tqdm=True,
    )
