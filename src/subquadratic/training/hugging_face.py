"""The Hugging Face Trainer, set up for our models: our optimizer and schedule, and checkpoints that are whole or not there."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from ..core.schedule import Schedule
from .checkpoints import Checkpoints, remove_checkpoint
from .optimizer import make_optimizer
from .options import TrainOptions
from .precision import trains_in_bfloat16
from .problems.problem import Batch, Problem

MANY_STEPS = 10**9  # the Trainer wants a number; the clock stops the run long before


class Objective(nn.Module):
    """`forward(**batch) -> {"loss": ...}`: what the Trainer wraps and calls; it writes into a `config` it finds, and finds none here.

    The loss is the batch's summed nats over `num_items_in_batch`, the predictions of all batches of the step on all processes:
    added up, the losses of a step are its mean per prediction, however unevenly its batches are filled. `predictions` is the
    number of the batch's own, where it is not what `problem.count` finds.
    """

    accepts_loss_kwargs = True

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self.problem, self.model = problem, model

    def forward(self, num_items_in_batch: Tensor | None = None, predictions: Tensor | None = None, **batch: Tensor) -> Batch:
        loss = self.problem.loss(self.model, batch)
        if num_items_in_batch is not None:
            own = self.problem.count(self.model, batch) if predictions is None else predictions
            loss = loss * (own.to(loss.dtype) / num_items_in_batch.clamp_min(1))
        return {"loss": loss}


class SubquadraticTrainer(Trainer):
    """The Trainer with our optimizer and our schedule, made where it makes its own, that is after it wrapped the model.

    `gradient_norm` is the last step's, before clipping. `write_more(folder)` adds to a checkpoint what the Trainer does not
    know of.
    """

    def __init__(
        self, problem: Problem, model: Any, options: TrainOptions, *, schedule: Schedule, checkpoints: Checkpoints, output_dir: str
    ) -> None:
        self.options, self.schedule, self.checkpoints = options, schedule, checkpoints
        self.problem, self.network = problem, model
        self._losses: list[Tensor] = []  # of the batches of this step
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

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also the rate, which may be another where a finished run goes on, and is then at the beginning of another schedule."""
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler: Any = self.lr_scheduler
        if checkpoint is None or not self.schedule.first_step or scheduler.last_epoch != self.schedule.first_step:
            return
        assert self.optimizer is not None
        peak = self.args.learning_rate
        scheduler.base_lrs = [peak for _ in scheduler.base_lrs]
        for group in self.optimizer.param_groups:
            group["initial_lr"], group["lr"] = peak, peak * self.schedule.factor(scheduler.last_epoch)

    def rate(self) -> float:
        """The learning rate of the next step."""
        assert self.optimizer is not None
        return float(self.optimizer.param_groups[0]["lr"])

    def step_loss(self) -> Tensor:
        """The mean loss per prediction of the step that was taken, on all processes; to be asked once a step, by each of them."""
        loss = torch.stack(self._losses).sum()
        self._losses.clear()
        return self.accelerator.reduce(loss, reduction="mean") if self.args.world_size > 1 else loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = super().get_train_dataloader()
        self._batches = len(loader)  # of an epoch, on each process
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """The batches of a step, and the predictions in those of all processes."""
        accumulation = self.args.gradient_accumulation_steps
        place = self.state.global_step % math.ceil(self._batches / accumulation) * accumulation
        batches = [self._once(batch, place + i) for i, batch in enumerate(itertools.islice(epoch_iterator, num_batches))]
        if not batches:
            return batches, None
        counts = [batch["predictions"] if "predictions" in batch else self.problem.count(self.network, batch) for batch in batches]
        count = self.accelerator.reduce(torch.stack(counts).sum().to(device), reduction="sum")
        return batches, count.expand(self.args.n_gpu) if self.args.n_gpu > 1 else count

    def _once(self, batch: Batch, place: int) -> Batch:
        """The process's batch number `place` of the epoch without rows that the epoch has had: where its last batches do not go round,
        accelerate fills them up with its first rows. A batch of nothing else keeps one row, which counts for nothing."""
        size = self.args.per_device_train_batch_size
        real = len(self.problem.train) - (place * self.args.world_size + self.args.process_index) * size
        if self.args.world_size == 1 or real >= size:
            return batch
        batch = {name: values[: max(real, 1)] for name, values in batch.items()}
        if real <= 0:
            batch["predictions"] = torch.zeros((), dtype=torch.int64, device=next(iter(batch.values())).device)
        return batch

    def training_step(self, *arguments: Any, **more: Any) -> Tensor:
        loss = super().training_step(*arguments, **more)
        self._losses.append(loss.detach())
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
        step, began = self.state.global_step, time.monotonic()
        staging = self.checkpoints.staging(step)
        if self.args.should_save:
            remove_checkpoint(staging)
            staging.parent.mkdir(exist_ok=True)  # a run folder that was deleted is not made again
            staging.mkdir(exist_ok=True)
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
        self.schedule.aside += time.monotonic() - began

    def _get_output_dir(self, trial: Any) -> str:
        staging: Path | None = getattr(self, "_staging", None)
        return super()._get_output_dir(trial) if staging is None else str(staging)


def training_arguments(options: TrainOptions, output_dir: str) -> TrainingArguments:
    """The Trainer's own options: only those that differ from its defaults for a reason."""
    assert options.batch_size and options.learning_rate
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
        bf16=trains_in_bfloat16(options.precision),
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
