"""The training loop: batches in, steps taken, and what was learned logged, evaluated and saved."""

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gcl.data.batch import Batch
from gcl.data.loader import StepBatches
from gcl.distributed import Precision, all_sum, from_main_process, rank
from gcl.errors import UserError
from gcl.losses.objective import Loss
from gcl.training.checkpoint import Checkpoints
from gcl.training.evaluation import Evaluation
from gcl.training.gradient_cache import GradientCache
from gcl.training.logit_scale import cap_logit_scale
from gcl.training.optim import OptimSettings, set_lr
from gcl.training.run import RunDirectory
from gcl.training.tracking import Tracker


@dataclass
class TrainSettings:
    """How long a run is and what it does on the way."""

    max_steps: int = 1000  # optimizer steps
    batch_size: int = 128  # global: what the loss sees
    micro_batch_size: int | None = None  # per process: what fits; the gradients are the same; null: all rows at once
    activation_checkpointing: bool = False  # towers keep less for the backward pass and compute it again
    max_logit_scale: float | None = None  # ceiling of the logit scale (the factor itself); null: none
    precision: Precision = "float32"  # of the towers' matrix products; the loss is always float32
    grad_clip_norm: float = 1.0  # of all gradients together; 0: no clipping
    log_every: int = 10  # steps between lines of metrics.jsonl
    eval_every: int = 500  # steps between evaluations, beside the one at step 0 and the one at the end
    save_every: int = 500  # steps between checkpoints, beside the one at the end
    keep_checkpoints: int = 2  # how many of the last ones stay
    eval_batch_size: int = 128  # rows encoded at once in evaluations, per process
    max_undecodable_share: float = 0.05  # of a run's images so far; more stops the run

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "batch_size",
            "log_every",
            "eval_every",
            "save_every",
            "keep_checkpoints",
            "eval_batch_size",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)} must be at least 1")
        if not self.grad_clip_norm >= 0:
            raise UserError(f"train.grad_clip_norm={self.grad_clip_norm} must be 0, for no clipping, or above")
        if self.max_logit_scale is not None and not self.max_logit_scale > 0:
            raise UserError(f"train.max_logit_scale={self.max_logit_scale} must be a number above 0, or null")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise UserError(f"train.micro_batch_size={self.micro_batch_size} must be at least 1, or null for all rows")


class Trainer:
    """Takes the steps of a run; it knows no concrete model, loss or source."""

    def __init__(
        self,
        accelerator: Accelerator,
        settings: TrainSettings,
        optim: OptimSettings,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        batches: StepBatches,
        evaluation: Evaluation,
        checkpoints: Checkpoints,
        run: RunDirectory,
        trackers: list[Tracker],
    ) -> None:
        self.accelerator, self.settings, self.optim = accelerator, settings, optim
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.gradient_cache = GradientCache(accelerator, self.model, loss, settings.micro_batch_size)
        self.batches = batches
        self.evaluation, self.checkpoints, self.run, self.trackers = evaluation, checkpoints, run, trackers
        self.totals = {"images": 0, "undecodable_images": 0, "unscored_rows": 0}  # over all processes and all steps

    def fit(self, settings: dict[str, Any], resume: bool) -> None:
        """Train from the start, or from the last checkpoint when resuming, to the last step (all ranks participate)."""
        state = self.checkpoints.resume(self.accelerator) if resume else {}
        step = state.get("step", 0)
        self.totals = {name: state.get(name, 0) for name in self.totals}
        if step > self.settings.max_steps:
            raise UserError(
                f"the last checkpoint has taken {step} steps, more than train.max_steps={self.settings.max_steps}; "
                "raise it, or choose another output_dir"
            )
        if self.accelerator.is_main_process:
            if resume and not state:
                print(f"{self.run.path} holds no complete checkpoint; starting at step 0", file=sys.stderr)
            self.run.begin(settings, self.accelerator.num_processes)
            self.run.keep_until(step)
            for tracker in self.trackers:
                tracker.begin(self.run.path, settings, step, self.settings.max_steps)
        batches = self.batches.from_step(step, self.settings.max_steps)
        while True:
            self._evaluate_if_due(step)
            if step == self.settings.max_steps:
                break
            started = time.perf_counter()
            measured = self._take_step(next(batches), step)
            step += 1
            self._log_if_due(step, measured, time.perf_counter() - started)
            if step % self.settings.save_every == 0 or step == self.settings.max_steps:
                self.checkpoints.save(self.accelerator, self.model, step, self.totals)
        if self.accelerator.is_main_process:
            for tracker in self.trackers:
                tracker.finish()

    def _take_step(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimizer step on the global batch (all ranks participate)."""
        batch = batch.to(self.accelerator.device)
        self.model.train()
        set_lr(self.optimizer, self.optim.lr_at(step, self.settings.max_steps))
        forward = self.gradient_cache.forward(batch, [self.batches.order.seed, step, rank()])
        counts = forward.share.new_tensor([batch.encoded_images, batch.undecodable, batch.unscored])
        loss_sum, images, undecodable, unscored = all_sum(torch.cat([forward.share.detach()[None], counts])).tolist()
        loss = loss_sum / self.accelerator.num_processes
        self._count(int(images), int(undecodable), int(unscored), step + 1)
        check_finite(loss, "loss", step + 1)
        self.gradient_cache.backward(forward)
        norm = self._clip_gradients()
        check_finite(float(norm), "gradient norm", step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.settings.max_logit_scale is not None:
            cap_logit_scale(self.accelerator, self.model, self.settings.max_logit_scale)
        return {
            "loss": loss,
            "logit_scale": float(forward.embeddings.logit_scale.detach()),
            "logit_bias": float(forward.embeddings.logit_bias.detach()),
            "grad_norm": float(norm),
        }

    def _clip_gradients(self) -> Tensor | float:
        """The norm of all gradients before they are clipped to `grad_clip_norm`."""
        limit = self.settings.grad_clip_norm or math.inf
        norm: Tensor | float = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        return norm

    def _count(self, images: int, undecodable: int, unscored: int, step: int) -> None:
        """Count what was wrong with the step's rows on all processes, and stop when too many images are."""
        self.totals["images"] += images
        self.totals["undecodable_images"] += undecodable
        self.totals["unscored_rows"] += unscored
        if self.totals["undecodable_images"] > max(10, self.settings.max_undecodable_share * self.totals["images"]):
            raise UserError(
                f"{self.totals['undecodable_images']} of {self.totals['images']} images could not be decoded by step "
                f"{step}, more than train.max_undecodable_share={self.settings.max_undecodable_share}; "
                "run gcl prepare again"
            )

    def _evaluate_if_due(self, step: int) -> None:
        due = step % self.settings.eval_every == 0 or step == self.settings.max_steps
        if not due or from_main_process(self.run.evaluation(step).exists()):
            return
        results = self.evaluation.run(self.model, self.accelerator)
        if self.accelerator.is_main_process:
            self.run.write_evaluation(step, results)
            for tracker in self.trackers:
                tracker.log_evaluation(step, {name: result.metrics for name, result in results.items()})

    def _log_if_due(self, step: int, measured: dict[str, float], seconds: float) -> None:
        due = step % self.settings.log_every == 0 or step in (1, self.settings.max_steps)
        if not (due and self.accelerator.is_main_process):
            return
        row = {
            "step": step,
            "samples_seen": step * self.settings.batch_size,
            **{f"epoch_{number}" if number else "epoch": n for number, n in enumerate(self.batches.order.epochs(step))},
            "lr": self.optim.lr_at(step - 1, self.settings.max_steps),
            **measured,
            "samples_per_second": self.settings.batch_size / seconds,
        }
        row |= {name: self.totals[name] for name in ("undecodable_images", "unscored_rows") if self.totals[name]}
        self.run.log(row)
        for tracker in self.trackers:
            tracker.log(row)


def check_finite(value: float, name: str, step: int) -> None:
    """Stop at a value that is not finite; every process has the same value.

    The loss is checked before any weight changes; so is the gradients' norm, but for DeepSpeed, which has stepped then:
    the last checkpoint is from before.
    """
    if not math.isfinite(value):
        raise UserError(
            f"the {name} is {value} at step {step}; lower optim.lr or set train.precision=float32, "
            "then resume=true goes on from the last checkpoint"
        )
