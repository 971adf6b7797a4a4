"""Our evaluator beside GCL's: CPU seconds and memory from embeddings on disk to every metric.

python benchmarks/evaluator.py [--quick]
python benchmarks/evaluator.py --corpus 4000000 --dim 1024 --folder DIR [--dtype float32]

Both sides get the same unit vectors, 200,000 x 768 searched by 4,000 queries to depth 1,000, and give the same metrics,
which is checked. Ours is the command `gcl evaluate task=precomputed`, with its intervals, table of queries and report;
theirs is evaluator_gcl.py. Each run is a process of its own on one core, for threads that wait for each other count as
busy; the sides take turns. CPU is the user and system time of the process; memory the most that was resident, pages of
mapped files included; beside it the most that was the process's own, without them.

With --corpus ours runs alone, on a file made in DIR and deleted afterwards, and its time is printed beside that of the
matrix products alone (evaluator_large.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from evaluator_data import Size, write_inputs
from evaluator_large import measure_large
from rich.console import Console
from rich.table import Table

OURS, THEIRS = "ours", "GCL's way"
SIZE = Size(200_000, 768, 4000)  # what smaller ones measure is mostly the start of both programs
ROUNDS = 3
TIME_LIMIT_SECONDS = 560  # a further round that would not end by then is left out
POLL_SECONDS = 0.02
# Theirs are rounded to five digits; two float32 scores that are nearly one may change places.
TOLERANCE = 2e-5

log = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Cost:
    cpu_seconds: float
    resident: int  # bytes, at most
    own: int  # bytes without pages of files, at most
    seconds: float


def run(command: list[str], log_file: Path) -> Cost:
    """A process's cost from start to end."""
    began, resident, own = time.monotonic(), 0, 0
    with log_file.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            lines = dict(line.split(":") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            if "VmHWM" in lines:  # a process that has just ended has none
                resident, own = (
                    max(most, 1024 * int(lines[name].split()[0]))
                    for most, name in ((resident, "VmHWM"), (own, "RssAnon"))
                )
            time.sleep(POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log_file.read_text()[-3000:]}")
    return Cost(ended[2].ru_utime + ended[2].ru_stime, resident, own, time.monotonic() - began)


def command_of(side: str, folder: Path) -> list[str]:
    if side == THEIRS:
        return [sys.executable, str(Path(__file__).with_name("evaluator_gcl.py")), str(folder)]
    files = {"queries": "queries.npy", "query_ids": "query_ids.json", "corpus": "corpus.npy"}
    files |= {"corpus_ids": "document_ids.json", "qrels": "qrels.json"}
    settings = [f"task.{name}={folder / file}" for name, file in files.items()]
    return [sys.executable, "-m", "gcl", "evaluate", "task=precomputed", *settings, f"output_dir={folder / 'ours'}"]


def check_agreement(folder: Path) -> None:
    ours = json.loads((folder / "ours" / "metrics.json").read_text())
    theirs = json.loads((folder / "output.json").read_text())
    differences = {
        f"{metric}@{k}": abs(ours["by_cutoff"][f"{metric}@{k}"] - value)
        for metric in ("map", "ndcg", "recall", "precision", "mrr")
        for k, value in ((name.split("@")[1], value) for name, value in theirs[metric].items())
    }
    summary = {"err": "mERR", "rbp@0.7": "mRBP7", "rbp@0.8": "mRBP8", "rbp@0.9": "mRBP9"}
    differences |= {name: abs(ours[name] - theirs["summary"][their]) for name, their in summary.items()}
    worst = max(differences, key=lambda name: differences[name])
    log.print(f"{len(differences)} metrics; the largest difference is that of {worst}: {differences[worst]:.1e}")
    if differences[worst] > TOLERANCE:
        raise SystemExit(f"the sides do not agree: {differences}")


def measure_all(folder: Path, rounds: int, deadline: float) -> dict[str, list[Cost]]:
    """The sides take turns, by turns in either order."""
    costs: dict[str, list[Cost]] = {OURS: [], THEIRS: []}
    duration = 0.0
    for number in range(rounds):
        began = time.monotonic()
        if number and began + duration > deadline:
            log.print(f"{number} of {rounds} rounds, for want of time")
            break
        for side in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            costs[side].append(run(command_of(side, folder), folder / "log"))
            log.print(f"{side}: {costs[side][-1]}")
        check_agreement(folder)
        duration = time.monotonic() - began
    return costs


def print_results(costs: dict[str, list[Cost]]) -> None:
    """The table, and as the last line the ratios as JSON."""
    title = f"{SIZE.documents:,} x {SIZE.dimensions}, {SIZE.queries:,} queries, {len(costs[OURS])} rounds"
    table = Table("side", "CPU seconds", "resident MB", "own MB", "wall seconds", title=title)
    middle = {
        side: {name: statistics.median(getattr(cost, name) for cost in of_side) for name in Cost.__annotations__}
        for side, of_side in costs.items()
    }
    for side, found in middle.items():
        memory = [f"{found[name] / 1e6:,.0f}" for name in ("resident", "own")]
        table.add_row(side, f"{found['cpu_seconds']:.1f}", *memory, f"{found['seconds']:.1f}")
    ratios = {name: found / middle[THEIRS][name] for name, found in middle[OURS].items()}
    table.add_row("ratio", *(f"{ratios[name]:.3f}" for name in ("cpu_seconds", "resident", "own", "seconds")))
    Console(width=120).print(table)
    chosen = {"cpu_ratio": ratios["cpu_seconds"], "memory_ratio": ratios["resident"]}
    print(json.dumps({name: round(value, 3) for name, value in chosen.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: about a minute where nothing else runs")
    parser.add_argument("--corpus", type=int, help="documents of a search without GCL's side")
    parser.add_argument("--dim", type=int, default=1024, help="dimensions of that corpus")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="numbers of that corpus")
    parser.add_argument("--folder", type=Path, help="where files are made and deleted; default: a temporary folder")
    arguments = parser.parse_args()
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    rounds = 1 if arguments.quick else ROUNDS
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.corpus:
            measure_large(folder, Size(arguments.corpus, arguments.dim, SIZE.queries), arguments.dtype)
            return
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        write_inputs(folder, SIZE)
        print_results(measure_all(folder, rounds, deadline))


if __name__ == "__main__":
    main()
