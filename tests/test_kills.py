"""A training run that is killed at random moments, again and again, trains on what it would have without.

python -m pytest -m slow tests/test_kills.py
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from training_processes import SECONDS, arguments_for, finish, launcher_of, losses, start

KILLS = 20
STEPS = 400
Batches = dict[int, list[int]]  # step -> hashes of the item ids of its global batch


def arguments(shards: Path, run: Path, *more: str) -> list[str]:
    """One that saves often, evaluates rarely and reads ahead with workers."""
    several = [f"train.max_steps={STEPS}", "train.save_every=7", "train.eval_every=200", "data.workers=1"]
    return arguments_for(shards, run, *several, "data.augmentation={min_area: 0.6, flip: 0.5}", *more)


def begin(processes: int, record: Path, arguments: list[str]) -> subprocess.Popen[str]:
    launcher = launcher_of(processes) if processes > 1 else None
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return start([str(record), *arguments], launcher, "tests/train_recording.py", **environment)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill all that a launcher started, at once."""
    for pid in [*children_of(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def children_of(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(child)
            yield from children_of(int(child))


def recorded(record: Path) -> list[tuple[int, int, list[int]]]:
    """(rank, step, hashes), in the order written; a line that a kill cut off is left out."""
    found = []
    for file in sorted(record.parent.glob(f"{record.name}.*")):
        for line in file.read_text().splitlines():
            if line.endswith("]]"):
                step, hashes = json.loads(line)
                found.append((int(file.suffix[1:]), step, hashes))
    return found


def killed_at_random(shards: Path, folder: Path, layouts: list[int], seed: int) -> tuple[Path, Batches]:
    """The run, killed once on each of these numbers of processes, and every batch it trained on, whenever."""
    run, chance, trained = folder / "run", random.Random(seed), Batches()
    for number, processes in enumerate([*layouts, layouts[0]]):
        record = folder / f"record{number}"
        process = begin(processes, record, arguments(shards, run, "resume=true"))
        if number == len(layouts):
            finish(process)
        else:
            wait_for_batches(process, record, chance.randrange(1, 2 * STEPS // KILLS))
            time.sleep(chance.random() * 0.3)  # anywhere in a step, also while it saves
            assert process.poll() is None, "it is killed, it does not end"
            kill(process)
        collect(trained, recorded(record), processes)
    return run, trained


def wait_for_batches(process: subprocess.Popen[str], record: Path, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline and len(recorded(record)) < count:
        time.sleep(0.01)


def collect(trained: Batches, found: list[tuple[int, int, list[int]]], processes: int) -> None:
    """Put the ranks' parts of each step together; a step taken before must be the same again."""
    by_step: dict[int, dict[int, list[int]]] = {}
    for rank, step, hashes in found:
        by_step.setdefault(step, {})[rank] = hashes
    for step, parts in by_step.items():
        if len(parts) == processes:  # a kill may come between two ranks
            batch = [item for rank in range(processes) for item in parts[rank]]
            assert trained.setdefault(step, batch) == batch


@pytest.fixture(scope="module")
def undisturbed(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Batches]:
    """Two runs that nothing happened to, whose losses are bit-equal; one of them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("run", "again"):
        finish(begin(1, folder / f"{name}.record", arguments(demo_shards, folder / name)))
    assert losses(folder / "run") == losses(folder / "again")
    trained = Batches()
    collect(trained, recorded(folder / "run.record"), 1)
    assert sorted(trained) == list(range(STEPS))
    return folder / "run", trained


@pytest.mark.slow
def test_kills_on_one_process_change_neither_a_batch_nor_a_bit_of_a_loss(
    undisturbed: tuple[Path, Batches], demo_shards: Path, tmp_path: Path
) -> None:
    run, trained = killed_at_random(demo_shards, tmp_path, [1] * KILLS, seed=1)
    assert trained == undisturbed[1]
    assert losses(run) == losses(undisturbed[0])


@pytest.mark.slow
def test_kills_on_changing_numbers_of_processes_change_no_batch(
    undisturbed: tuple[Path, Batches], demo_shards: Path, tmp_path: Path
) -> None:
    layouts = random.Random(2).choices([1, 2, 2, 4], k=KILLS)
    run, trained = killed_at_random(demo_shards, tmp_path, layouts, seed=3)
    assert {1, 2, 4} <= set(layouts)
    assert trained == undisturbed[1]
    ours, theirs = losses(run), losses(undisturbed[0])
    assert all(ours[step] == pytest.approx(theirs[step], rel=1e-4) for step in range(1, 51))
