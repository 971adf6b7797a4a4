"""Training runs as a user starts them: real processes, alone or under a launcher, and what they leave behind."""

import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

Run = Callable[[list[str]], None]  # trains in this process, as `python train.py ARGUMENTS` does
Refuse = Callable[[list[str]], str]  # the one line with which a command line is refused

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240  # for one run, on a busy machine
STEPS, SAVE_EVERY = 50, 10


def arguments_for(shards: Path, run: Path, *more: str) -> list[str]:
    """The command line of a small run that logs every step."""
    return [
        "model=tiny",
        f"data.path={shards}",
        f"output_dir={run}",
        "data.workers=0",
        "train.batch_size=32",
        f"train.max_steps={STEPS}",
        f"train.save_every={SAVE_EVERY}",
        "train.eval_every=20",
        "train.log_every=1",
        "optim.lr=3e-4",
        "optim.warmup_steps=5",
        *more,
    ]


@contextmanager
def one_core() -> Iterator[None]:
    """What starts here has one core, hence one thread: on a busy machine two threads mostly wait for each other."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(cores))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def start(
    arguments: list[str], launcher: list[str] | None = None, script: str = "train.py", **environment: str
) -> subprocess.Popen[str]:
    """A training process on one core, or the launcher of several."""
    command = [*(launcher or [sys.executable]), str(ROOT / script), *arguments]
    with nullcontext() if launcher else one_core():
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must end well; its standard output."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return output


def launcher_of(processes: int) -> list[str]:
    """accelerate launch on CPU, on a free port; needs ACCELERATE_USE_CPU=true."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    accelerate = Path(sys.executable).with_name("accelerate")
    options = [
        "--multi_gpu",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--main_process_port",
        str(port),
    ]
    return [str(accelerate), "launch", *options, "--mixed_precision", "no", "--dynamo_backend", "no"]


def deepspeed_launcher_of(processes: int, *options: str) -> list[str]:
    """The same with DeepSpeed: `--zero_stage N`, or `--deepspeed_config_file FILE`; needs no ACCELERATE_USE_CPU."""
    launcher = ["--use_deepspeed" if option == "--multi_gpu" else option for option in launcher_of(processes)]
    return [*launcher, *options]


def kill_after(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Kill a run with signal 9 as soon as it has logged `step`."""
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if any(row["step"] >= step for row in logged(run)):
            break
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -9, errors[-3000:]


def logged(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that are written to their end."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in logged(run)}


def evaluations(run: Path) -> dict[str, dict[str, Any]]:
    """step_00000000/TASK -> metrics."""
    files = sorted(run.glob("evaluation/*/*/metrics.json"))
    return {f"{file.parent.parent.name}/{file.parent.name}": json.loads(file.read_text()) for file in files}


def wandb_files(run: Path) -> list[Path]:
    """The offline runs in a run directory, in the order in which they were started."""
    return sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)


def wandb_losses(file: Path) -> dict[int, float]:
    """step -> train/loss, as wandb wrote it down."""
    found = {}
    for record in wandb_records(file):
        values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if "train/loss" in values:
            found[int(values["_step"])] = float(values["train/loss"])
    return found


def wandb_records(file: Path) -> list[Record]:
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    content, block = file.read_bytes(), 32768
    position, pending, records = 7, b"", []
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block  # too small for another header
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        if kind == 0:
            break
        pending += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(pending))
            pending = b""
    return records
