"""A training run, from settings to report.

accelerate launch train.py experiment=quickstart train.max_steps=500
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gcl.cli import run_command
from gcl.config import load_settings
from gcl.data.batch import build_batch_builder
from gcl.data.images import ImageReader
from gcl.data.loader import DataSettings, StepBatches, sample_order
from gcl.data.shards import ShardReader
from gcl.distributed import leave, start_processes
from gcl.errors import UserError
from gcl.losses.objective import Objective, PairLoss
from gcl.models.dual_encoder import DualEncoder
from gcl.parts import Part, build, build_as
from gcl.retrieval.embed import Corpus
from gcl.retrieval.tasks import RetrievalTask
from gcl.training.checkpoint import Checkpoints, Fingerprint
from gcl.training.evaluation import Evaluation
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
    optim: OptimSettings  # optimizer and learning rate
    train: TrainSettings  # how long, how large, how often
    tasks: dict[str, RetrievalTask]  # name -> retrieval task on the validation split
    tracking: Part | None = None  # beside the terminal and metrics.jsonl
    seed: Annotated[int, Field(ge=0)] = 0  # of the order of samples and of augmentation
    resume: bool = False  # go on from the run's last checkpoint, where there is one


def main(arguments: list[str]) -> None:
    settings = load_settings("train", TrainingRun, arguments)
    settings["data"]["path"] = str(Path(settings["data"]["path"]).expanduser().resolve())  # read from any folder
    parts = {name: settings[name] for name in ("model", "objective", "loss", "tracking")}
    plain: TrainingRun = build_as(TrainingRun, {**settings, **dict.fromkeys(parts)})
    data, train, tasks, seed = plain.data, plain.train, plain.tasks, plain.seed
    run = RunDirectory(plain.output_dir)
    run.check(settings, plain.resume)
    accelerator = start_processes(train.precision)

    training_rows = ShardReader(data.path, data.train_split)
    validation_rows = ShardReader(data.path, data.validation_split)
    order = sample_order(training_rows, data, train.batch_size, seed, accelerator.num_processes)
    objective: Objective = build(parts["objective"])
    evaluated = objective.fields + [name for task in tasks.values() for name in task.fields]
    objective.check_same(training_rows.split_fields(evaluated + objective.identity_fields)[1])

    model: DualEncoder = build(parts["model"])
    pair_loss: PairLoss = build(parts["loss"])
    if pair_loss.needs_bias and model.network.logit_bias is None:
        raise UserError(f"{model.name} has no logit bias, which this loss needs to start from; choose loss=softmax")
    optimizer = build_optimizer(model.network, plain.optim)
    loss = functools.partial(objective.loss, pair_loss)

    builder = functools.partial(
        build_batch_builder, training_rows, identity_fields=objective.identity_fields, tokenizer=model.tokenizer
    )
    pixels = functools.partial(ImageReader, model.image.size, model.image.interpolation, model.image.resize_mode)
    batches = StepBatches(
        training_rows,
        order,
        builder(objective.fields, image_reader=pixels(data.augmentation)),
        data.workers,
        accelerator.process_index,
        accelerator.num_processes,
    )
    corpus = Corpus(
        validation_rows,
        builder(evaluated, image_reader=pixels()),
        train.eval_batch_size,
        data.workers,
        shows_progress=False,
    )
    evaluation = Evaluation(corpus, tasks, loss, objective.identity_fields, train.batch_size)

    fingerprint = Fingerprint(seed, train.batch_size, order.lanes, order.window, training_rows.fingerprint)
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
