"""train.py that also writes down what it trains on: tests/train_recording.py FILE key=value ...

FILE.RANK gets a line for each batch when it is trained on: the step, and the hashes of its rows' item ids. A run that
died has written steps that its last checkpoint did not keep; those that are taken again stand behind them.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import train
from gcl.cli import run_command
from gcl.data.batch import Batch
from gcl.data.loader import StepBatches

file, *arguments = sys.argv[1:]
from_step = StepBatches.from_step


def recorded(batches: StepBatches, start_step: int, max_steps: int) -> Iterator[Batch]:
    with Path(f"{file}.{os.environ.get('RANK', 0)}").open("a") as lines:
        for step, batch in enumerate(from_step(batches, start_step, max_steps), start=start_step):
            lines.write(json.dumps([step, batch.identities["item_id"].tolist()]) + "\n")
            lines.flush()
            yield batch


if __name__ == "__main__":
    StepBatches.from_step = recorded  # type: ignore[method-assign]
    run_command(lambda: train.main(arguments))
