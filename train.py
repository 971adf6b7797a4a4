"""A training run, from settings to report.

accelerate launch train.py experiment=quickstart train.max_steps=500
"""

import functools
import sys
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from gcl import deepspeed
from gcl.cli import run_command
from gcl.config import load_settings
from gcl.data.batch import Scores, build_batch_builder
from gcl.data.images import ImageReader
from gcl.data.loader import (
    DataSettings,
    StepBatches,
    build_mixture,
    build_negatives,
    build_readers,
    with_whole_paths,
)
from gcl.data.shards import ShardReader
from gcl.distributed import leave, start_processes
from gcl.losses.objective import Objective, PairLoss, Weighting
from gcl.models.dual_encoder import DualEncoder
from gcl.parts import Part, build, build_as
from gcl.retrieval.tasks import RetrievalTask
from gcl.training.checkpoint import Checkpoints, Fingerprint, complete_checkpoints
from gcl.training.evaluation import Evaluation, ValidationLoss
from gcl.training.logit_bias import fit_logit_bias
from gcl.training.optim import OptimSettings, build_optimizer
from gcl.training.report_tracker import ReportTracker
from gcl.training.run import RunDirectory
from gcl.training.summary import print_summary
from gcl.training.tracking import ConsoleTracker, Tracker
from gcl.training.trainer import Trainer, TrainSettings


@dataclass
class TrainingRun:
    """Fine-tune a dual encoder on shards written by gcl prepare, evaluating the start and what becomes of it."""

    output_dir: str  # the run's directory
    data: DataSettings  # what is read
    model: Part  # the start
    objective: Part  # pairs of sides
    loss: Part  # of a pair
    weighting: Part  # score to weight: how much a row's own pair counts
    optim: OptimSettings  # optimizer and learning rate
    train: TrainSettings  # how long, how large, how often
    tasks: dict[str, RetrievalTask]  # name -> retrieval task on the validation split
    tracking: Part | None = None  # beside the terminal and metrics.jsonl
    seed: Annotated[int, Field(ge=0)] = 0  # of the order of samples and of augmentation
    resume: bool = False  # go on from the run's last checkpoint, where there is one


def main(arguments: list[str]) -> None:
    settings = load_settings("train", TrainingRun, arguments)
    settings["data"] = with_whole_paths(settings["data"])
    parts = {name: settings[name] for name in ("model", "objective", "loss", "weighting", "tracking")}
    plain: TrainingRun = build_as(TrainingRun, {**settings, **dict.fromkeys(parts)})
    data, train, tasks, seed = plain.data, plain.train, plain.tasks, plain.seed
    run = RunDirectory(plain.output_dir)
    run.check(settings, plain.resume)
    accelerator = start_processes(train.precision)
    deepspeed.configure(accelerator, train.precision, train.batch_size, train.grad_clip_norm)

    readers = build_readers(data)
    training_rows = readers[0]
    validation_rows = ShardReader(data.path, data.validation_split, data.cache)
    order = build_mixture(readers, data, train.batch_size, seed, accelerator.num_processes)
    objective: Objective = build(parts["objective"])
    pair_loss: PairLoss = build(parts["loss"])
    weighting: Weighting = build(parts["weighting"])
    scores = Scores(weighting.needs_score, data.default_score)
    for rows in (*readers, validation_rows):
        scores.check(rows)
    objective.check_same(training_rows.split_fields(objective.identity_fields)[1])
    asked = [name for task in tasks.values() for name in task.fields]
    training_rows.split_fields(asked, remedy="a task that names it is left out with ~tasks.NAME")
    loss = functools.partial(objective.loss, pair_loss, weighting)

    negatives = build_negatives(data, training_rows)
    training_rows.kinds.update(negatives.kinds if negatives else {})
    negative_fields = objective.negative_fields(training_rows.kinds) if data.negatives else []

    model: DualEncoder = build(parts["model"])
    objective.check_dimension(model.dimensions)
    for task in tasks.values():
        task.check_dimensions(model.dimensions)
    model.check_max_logit_scale(train.max_logit_scale)
    image_fields, text_fields = training_rows.split_fields(objective.fields)
    model.freeze_unused(bool(image_fields), bool(text_fields))
    if train.activation_checkpointing:
        model.checkpoint_activations()

    batches = StepBatches(
        readers,
        order,
        build_batch_builder(
            training_rows,
            objective.fields + negative_fields,  # in this order: a row's augmentation is that without negatives
            objective.identity_fields + objective.negative_identity_fields(training_rows.kinds),
            image_reader=ImageReader(
                model.image.size, model.image.interpolation, model.image.resize_mode, data.augmentation
            ),
            tokenizer=model.tokenizer,
            scores=scores,
        ),
        data.workers,
        accelerator.process_index,
        accelerator.num_processes,
        negatives,
    )
    evaluation = Evaluation(
        model,
        validation_rows,
        train.eval_batch_size,
        data.workers,
        tasks,
        ValidationLoss(loss, objective.fields, objective.identity_fields, scores, train.batch_size),
    )
    resumes = plain.resume and bool(complete_checkpoints(run.checkpoints))
    fit_logit_bias(model, pair_loss.needs_bias, objective, batches, accelerator.device, resumes)
    optimizer = build_optimizer(model.network, plain.optim)

    fingerprint = Fingerprint(
        seed,
        train.batch_size,
        order.lanes,
        [own.window for own in order.orders],
        list(order.weights),
        [rows.fingerprint for rows in readers],
        negatives.fingerprint if negatives else data.negatives,
    )
    checkpoints = Checkpoints(run.checkpoints, fingerprint, train.keep_checkpoints)
    trackers: list[Tracker] = [ConsoleTracker(), ReportTracker(validation_rows)]
    trackers += [build(parts["tracking"])] if parts["tracking"] else []
    if accelerator.is_main_process:
        model.save_tokenizer(run.tokenizer)

    trainer = Trainer(
        accelerator, train, plain.optim, model, optimizer, loss, batches, evaluation, checkpoints, run, trackers
    )
    trainer.fit(settings, plain.resume)

    if accelerator.is_main_process:
        print_summary(run.path)
    leave()


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
