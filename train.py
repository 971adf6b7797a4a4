"""A training run, from settings to report.

accelerate launch train.py experiment=quickstart train.max_steps=500
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any

from gcl.cli import run_command
from gcl.config import load_settings
from gcl.data.batch import BatchBuilder
from gcl.data.images import ImageReader
from gcl.data.loader import DataSettings, StepBatches, sample_order
from gcl.data.shards import ShardReader
from gcl.distributed import leave, start_processes
from gcl.losses.objective import Objective
from gcl.models.dual_encoder import DualEncoder
from gcl.parts import build
from gcl.retrieval.embed import Corpus
from gcl.retrieval.report import write_report
from gcl.retrieval.tasks import RetrievalTask
from gcl.training.checkpoint import Checkpoints, Fingerprint
from gcl.training.evaluation import Evaluation
from gcl.training.optim import OptimSettings, build_optimizer
from gcl.training.run import RunDirectory
from gcl.training.summary import print_summary
from gcl.training.tracking import ConsoleTracker
from gcl.training.trainer import Trainer, TrainSettings


@dataclass
class TrainingRun:
    """Fine-tune a dual encoder on shards written by gcl prepare, evaluating the start and what becomes of it."""

    output_dir: str  # the run's directory
    data: DataSettings  # what is read
    model: Any  # the start
    objective: Any  # pairs of sides
    loss: Any  # of a pair
    optim: OptimSettings  # optimizer and learning rate
    train: TrainSettings  # how long, how large, how often
    tasks: dict[str, Any]  # name -> retrieval task on the validation split
    tracking: Any = None  # beside the terminal and metrics.jsonl
    seed: int = 0  # of the order of samples and of augmentation
    resume: bool = False  # go on from the run's last checkpoint, where there is one


def main(arguments: list[str]) -> None:
    settings = load_settings("train", TrainingRun, arguments)
    data, train, optim = (build(settings[group]) for group in ("data", "train", "optim"))
    run = RunDirectory(settings["output_dir"])
    run.check_free(settings["resume"])
    accelerator = start_processes({"float32": "no", "bf16": "bf16"}[train.precision])

    training_rows = ShardReader(data.path, data.train_split)
    validation_rows = ShardReader(data.path, data.validation_split)
    order = sample_order(training_rows, data, train.batch_size, settings["seed"], accelerator.num_processes)
    objective: Objective = build(settings["objective"])
    tasks: dict[str, RetrievalTask] = {name: build(task) for name, task in settings["tasks"].items()}

    model: DualEncoder = build(settings["model"])
    optimizer = build_optimizer(model.network, optim)
    loss = functools.partial(objective.loss, build(settings["loss"]))

    def batch_builder(fields: list[str], augmentation: Any = None) -> BatchBuilder:
        images, texts = training_rows.split_fields(fields)
        reader = ImageReader(model.image.size, model.image.interpolation, model.image.resize_mode, augmentation)
        return BatchBuilder(images, texts, objective.identity_fields, reader, model.tokenizer)

    batches = StepBatches(
        training_rows,
        order,
        batch_builder(objective.fields, data.augmentation),
        data.workers,
        accelerator.process_index,
        accelerator.num_processes,
    )
    evaluated_fields = [*objective.fields, *(name for task in tasks.values() for name in task.fields)]
    corpus = Corpus(
        validation_rows, batch_builder(list(dict.fromkeys(evaluated_fields))), train.eval_batch_size, data.workers
    )
    evaluation = Evaluation(corpus, tasks, loss, objective.identity_fields, train.batch_size)

    fingerprint = Fingerprint(settings["seed"], train.batch_size, order.lanes, order.window, training_rows.fingerprint)
    checkpoints = Checkpoints(run.checkpoints, fingerprint, train.keep_checkpoints)
    trackers = [ConsoleTracker()] + ([build(settings["tracking"])] if settings["tracking"] else [])

    trainer = Trainer(
        accelerator, train, optim, model, optimizer, loss, batches, evaluation, checkpoints, run, trackers
    )
    if accelerator.is_main_process:
        model.save_tokenizer(run.tokenizer)
    trainer.fit(settings, settings["resume"])

    if accelerator.is_main_process:
        print_summary(run, write_report(run.path, validation_rows.__getitem__))
    leave()


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
