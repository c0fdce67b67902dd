"""The Hugging Face Trainer, set up for our models."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from ..data import Windows
from ..models.language_model import LanguageModel
from .objective import Objective
from .optimizer import make_optimizer
from .options import TrainOptions
from .schedule import Schedule

MANY_STEPS = 10**9  # the Trainer wants a number; the clock stops the run long before


class SubquadraticTrainer(Trainer):
    """The Trainer with our optimizer and our schedule, made where it makes its own, that is after it wrapped the model."""

    def __init__(self, model: LanguageModel, options: TrainOptions, *, windows: Windows, schedule: Schedule, output_dir: str) -> None:
        self.schedule = schedule
        super().__init__(
            model=Objective(model),
            args=training_arguments(options, output_dir),
            train_dataset=windows,
            data_collator=_collate,
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


def training_arguments(options: TrainOptions, output_dir: str) -> TrainingArguments:
    """The Trainer's own options: only those that differ from its defaults for a reason."""
    assert options.batch_size and options.learning_rate
    bfloat16 = options.precision == "bfloat16" or (
        options.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    return TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        max_steps=MANY_STEPS if options.max_steps is None else options.max_steps,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        bf16=bfloat16,
        seed=options.seed,
        logging_steps=10,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # else the log shows a loss of 0 where it is NaN
        ddp_find_unused_parameters=False,  # else every step searches the graph for what our models do not have
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _collate(rows: list[Tensor]) -> dict[str, Tensor]:
    return {"tokens": torch.stack(rows)}
