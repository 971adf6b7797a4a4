"""A search log joined to a catalogue: every row that `source=behaviour` yields, with the time and memory it takes.

python benchmarks/join.py [--quick] [--format csv] [--pandas]

A synthetic catalogue of a million products as Parquet, and a log of ten million rows: queries and products are drawn
with a long tail, a query is spelled in two ways, two of a hundred products are not in the catalogue, and one row in a
thousand cannot be used. Both are written in batches to a temporary folder. A process of its own then iterates over the
source to its end; its peak is the largest resident memory that Linux counted for it. With --pandas a second process
does the same with pandas on the same files, without making rows of the result, and the scores of both are compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from gcl.cli import run_command
from gcl.data.record import Refusal
from gcl.data.sources.behaviour import WEIGHTS, BehaviourSource
from gcl.data.sources.catalog import CatalogSource
from gcl.errors import UserError

CATALOGUE_ROWS, LOG_ROWS, QUERIES = 1_000_000, 10_000_000, 300_000
BATCH_ROWS = 250_000
SMOOTHING = 20.0
COLOURS = ("red", "navy blue", "black", "white", "olive", "grey", "pink", "tan")
KINDS = ("shirt", "running shoe", "handbag", "wool coat", "belt", "watch", "kettle", "floor lamp", "rug", "tent")

log = Console(stderr=True, soft_wrap=True, highlight=False)


def write_catalogue(file: Path, rows: int) -> None:
    writer = None
    for start in range(0, rows, BATCH_ROWS):
        numbers = np.arange(start, min(start + BATCH_ROWS, rows))
        names = [f"{COLOURS[n % 8]} {KINDS[n // 8 % 10]}, model {n}" for n in numbers]
        table = pa.table(
            {
                "item_id": [f"P{n:09d}" for n in numbers],
                "title": names,
                "category": [KINDS[n // 8 % 10] for n in numbers],
                "description": [f"{name}: everything there is to say about number {name[::-1]}" for name in names],
                "price": np.round(5 + (numbers * 7919 % 20_000) / 100, 2),
                "image": [f"https://shop.example/images/{n:09d}.jpg" for n in numbers],
            }
        )
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def write_log(file: Path, rows: int, products: int, queries: int) -> None:
    random = np.random.default_rng(0)
    names = np.array([f"{COLOURS[n % 8]} {KINDS[n // 8 % 10]} {n // 80}" for n in range(queries)], dtype=object)
    shouted = np.array([f" {name.upper()} " for name in names], dtype=object)
    writer: Any = None
    for start in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        query = (queries * random.random(count) ** 3).astype(int)  # the first queries are the frequent ones
        product = (query * 31 + (200 * random.random(count) ** 2).astype(int) * 977) % int(products / 0.98)
        impressions = random.geometric(0.1, count)
        clicks = random.binomial(impressions, 0.04)
        carts, purchases = random.binomial(clicks, 0.3), random.binomial(clicks, 0.1)
        spelled = np.where(random.random(count) < 0.2, shouted[query], names[query])
        spelled[random.random(count) < 0.0005] = " "
        clicks[random.random(count) < 0.0005] = -1
        item_ids = [f"P{n:09d}" for n in product]
        columns = [spelled, item_ids, impressions, clicks, carts, purchases]
        table = pa.table(dict(zip(("query", "item_id", "impressions", *WEIGHTS), map(pa.array, columns), strict=True)))
        kind = pa.csv.CSVWriter if file.suffix == ".csv" else pq.ParquetWriter
        writer = writer or kind(file, table.schema)
        writer.write_table(table)
    writer.close()


def read_with_source(catalogue: Path, search_log: Path) -> dict[str, Any]:
    """Every row and refusal of the source."""
    source = BehaviourSource(str(search_log), CatalogSource(str(catalogue)), smoothing=SMOOTHING)
    yielded, rows, total, lost = len(source), 0, 0.0, {}
    for row in source:
        if isinstance(row, Refusal):
            lost[row.reason] = row.count
        else:
            rows, total = rows + 1, total + float(row.fields["score"])
    assert rows + len(lost) == yielded
    return {
        "joined_rows": rows,
        "score_sum": total,
        "refused": lost,
    }


def read_with_pandas(catalogue: Path, search_log: Path) -> dict[str, Any]:
    """The same pairs and scores by pandas, which holds everything in memory."""
    import pandas as pd  # noqa: PLC0415  # its memory is not the source's

    searches = (pd.read_csv if search_log.suffix == ".csv" else pd.read_parquet)(search_log)
    searches["query"] = searches["query"].str.lower().str.split().str.join(" ")
    searches = searches[(searches["query"] != "") & (searches["clicks"] >= 0)]
    pairs = searches.groupby(["query", "item_id"], as_index=False).sum()
    value = sum(weight * pairs[event] for event, weight in WEIGHTS.items())
    average = value.sum() / pairs["impressions"].sum()
    pairs["score"] = (value + SMOOTHING * average) / (pairs["impressions"] + SMOOTHING) / average
    pairs = pairs[pairs[list(WEIGHTS)].sum(axis=1) >= 1]
    joined = pd.read_parquet(catalogue).merge(pairs, on="item_id").sort_values(["item_id", "query"])
    return {"joined_rows": len(joined), "score_sum": float(joined["score"].sum())}


METHODS = {"source": read_with_source, "pandas": read_with_pandas}


def peak_megabytes() -> float:
    """This process's largest resident memory so far; unlike getrusage's, it does not begin with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(method: str, catalogue: Path, search_log: Path) -> dict[str, Any]:
    """One method in a process of its own."""
    command = [sys.executable, __file__, "--method", method, "--files", str(catalogue), str(search_log)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        raise UserError(f"{method} failed with exit status {finished.returncode}, as said above")
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def print_method(method: str, catalogue: Path, search_log: Path) -> None:
    started = time.monotonic()
    found = METHODS[method](catalogue, search_log)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({**found, "peak_megabytes": round(peak_megabytes()), "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--format", choices=["parquet", "csv"], default="parquet", help="of the log (default: parquet)")
    parser.add_argument("--pandas", action="store_true", help="also join with pandas, in memory")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.method:
        print_method(arguments.method, *arguments.files)
        return
    share = 10 if arguments.quick else 1
    sizes = {"catalogue_rows": CATALOGUE_ROWS // share, "log_rows": LOG_ROWS // share}
    with tempfile.TemporaryDirectory(prefix="gcl-join-") as folder:
        catalogue, search_log = Path(folder) / "products.parquet", Path(folder) / f"log.{arguments.format}"
        log.print(f"writing {sizes['catalogue_rows']:,} products and {sizes['log_rows']:,} rows of log to {folder}")
        write_catalogue(catalogue, sizes["catalogue_rows"])
        write_log(search_log, sizes["log_rows"], sizes["catalogue_rows"], QUERIES // share)
        megabytes = [round(file.stat().st_size / 1e6) for file in (catalogue, search_log)]
        log.print(f"{megabytes[0]} MB of catalogue, {megabytes[1]} MB of log")
        methods = ["source", *(["pandas"] if arguments.pandas else [])]
        found = {method: measure(method, catalogue, search_log) for method in methods}
    print_results(sizes, found)


def print_results(sizes: dict[str, int], found: dict[str, dict[str, Any]]) -> None:
    """A table, and as the last line the source's figures as JSON."""
    print(f"{sizes['catalogue_rows']:,} products, {sizes['log_rows']:,} rows of log")
    table = Table("", "joined rows", "peak MB", "seconds")
    for method, figures in found.items():
        table.add_row(method, f"{figures['joined_rows']:,}", str(figures["peak_megabytes"]), str(figures["seconds"]))
    Console(width=120).print(table)
    source = found["source"]
    print("refused: " + ", ".join(f"{count:,} {reason}" for reason, count in source["refused"].items()))
    if "pandas" in found:
        rows, total = found["pandas"]["joined_rows"], found["pandas"]["score_sum"]
        if rows != source["joined_rows"] or abs(total - source["score_sum"]) > 1e-6 * total:
            raise UserError(f"pandas finds {rows} rows and scores of {total}, the source {source}")
        print("pandas finds the same rows and scores")
    print(json.dumps({**sizes, **{name: source[name] for name in ("joined_rows", "peak_megabytes", "seconds")}}))


if __name__ == "__main__":
    run_command(main)
