"""GCL's score weighting beside constant weights on a fashion catalogue: nDCG@10 on unseen products, at equal steps.

python benchmarks/weighting.py --data FOLDER --output FOLDER [--quick]

A query is "women navy blue topwear": gender, colour and kind. A training product comes twice, with two of three
queries: its own (score 1), one that agrees with it in two attributes (2/3), one that agrees in one (1/3). They are
drawn from the training products' own queries, as often as those have them; by turns, so that each score is as frequent.
Both weightings train on the same rows in the same order from the same start, by the shipped recipe for catalogues.
Gradients are not clipped: AdamW then takes the same step whatever the mean weight is, and what differs is how much rows
count beside each other.

Every query of an unseen product asks; all unseen products answer with the side that was trained. A product's gain is
the number of attributes it shares with the query, 0 to 3, linear. What decides is that graded nDCG@10: the difference
of the two weightings in each seed. Precision@10 and MRR count the products that share all three.
"""

import argparse
import itertools
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from gcl.cli import run_command
from gcl.data.fetch.records import ImageSettings, fetch_records
from gcl.data.manifest import MANIFEST
from gcl.data.prepare.chunk import SplitSettings
from gcl.data.record import Record, refusal_of
from gcl.data.shard_writer import write_shards
from gcl.data.shards import ShardReader
from gcl.data.sources.catalog import CatalogSource
from gcl.distributed import start_processes
from gcl.encoders.open_clip_encoder import OpenClipEncoder
from gcl.errors import UserError
from gcl.files import write_text
from gcl.losses.side import side_embedding
from gcl.models.dual_encoder import DualEncoder
from gcl.parts import build
from gcl.retrieval.embeddings.embed import Embedder
from gcl.retrieval.embeddings.row_embeddings import embed_rows
from gcl.retrieval.embeddings.rows import load_rows
from gcl.retrieval.metrics import DEPTH, Judgements, mean, query_metrics
from gcl.retrieval.search import search
from gcl.retrieval.vectors import TensorVectors
from gcl.training.load import load_model
from gcl.training.run import RunDirectory

ATTRIBUTES = ("gender", "baseColour", "subCategory")
UNKNOWN = "NA"  # how the catalogue spells an attribute that it does not know
TURNS = ((3, 2), (2, 1), (1, 3))  # attributes that a product shares with its two queries
LEFT, RIGHT = {"query": 1.0}, {"image": 0.9, "title": 0.1}  # as in conf/objective/query_image_title.yaml
START, WEIGHTINGS = "start", ("constant", "linear")
RECIPE = (
    "experiment=catalogue",
    "objective=query_image_title",
    "loss=softmax",
    "~tasks.category2image",
    "model.image_size=96",
    "model.context_length=16",  # tokens; 98 of 100 titles are shorter
    "train.grad_clip_norm=0",
    "train.keep_checkpoints=1",
    "resume=true",
)
LAUNCH = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
REPOSITORY = Path(__file__).resolve().parent.parent

Metrics = dict[str, Any]
MEASURED = {
    "ndcg@10": "nDCG@10, graded",
    "precision@10": "precision@10, all three shared",
    "mrr": "MRR, all three shared",
}

log = Console(stderr=True, soft_wrap=True, highlight=False)


@dataclass
class Plan:
    """What has to be the same for every training in one folder."""

    data: str  # the catalogue
    steps: int
    batch_size: int
    products: int | None  # the catalogue's first ones; None: all


def write_pairs(plan: Plan, folder: Path) -> None:
    """The training products' rows and the unseen products as shards, split so that equal titles stay together."""
    source = CatalogSource(plan.data)
    read = fetch_records(itertools.islice(source, plan.products), source.folder, ImageSettings())
    products = [row for row in read if isinstance(row, Record) and is_usable(row)]
    split = SplitSettings(by="title", validation=0.1)
    unseen = [product for product in products if split.split_of(product) == "validation"]
    trained = [product for product in products if split.split_of(product) == "train"]
    rows = {"train": training_rows(trained), "validation": (row_of(product, product, 1.0) for product in unseen)}
    write_shards(folder, rows, facts={"training_products": len(trained), "unseen_products": len(unseen)})
    log.print(f"{len(trained)} products to train on, twice each; {len(unseen)} unseen")


def is_usable(product: Record) -> bool:
    known = all(product.fields.get(name, UNKNOWN) != UNKNOWN for name in ATTRIBUTES)
    return known and refusal_of(product.fields, product.images, ["title", "image"], product.origin) is None


def training_rows(products: list[Record]) -> Iterator[Record]:
    """Two rows of each product, the scores by turns; a product that no query fits so well asks with its own."""
    random = np.random.default_rng(0)
    attributes = np.array([[product.fields[name] for name in ATTRIBUTES] for product in products])
    for number, product in enumerate(products):
        shared = (attributes == attributes[number]).sum(1)
        for wanted in TURNS[number % len(TURNS)]:
            fitting = np.flatnonzero(shared == wanted)
            asking = int(random.choice(fitting)) if len(fitting) else number
            yield row_of(product, products[asking], int(shared[asking]) / len(ATTRIBUTES))


def row_of(product: Record, asking: Record, score: float) -> Record:
    """A product with the query that another product's attributes make."""
    query = " ".join(str(asking.fields[name]) for name in ATTRIBUTES).lower()
    kept = {name: product.fields[name] for name in ("item_id", "title", *ATTRIBUTES)}
    return Record({**kept, "query": query, "score": score}, product.images)


def train(plan: Plan, pairs: Path, weighting: str, seed: int, run: Path) -> None:
    """A training run in a process of its own; one that was interrupted goes on from its last checkpoint."""
    settings = [f"weighting={weighting}", f"seed={seed}", f"model.seed={seed}", f"data.path={pairs}"]
    settings += [f"output_dir={run}", f"train.max_steps={plan.steps}", f"train.batch_size={plan.batch_size}"]
    settings += [f"train.eval_every={plan.steps}", f"train.save_every={max(1, plan.steps // 2)}"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, str(REPOSITORY / "train.py")]
    command = [*launch, *RECIPE, *settings]
    log.print(shlex.join(command))
    started = time.monotonic()
    if subprocess.run(command, cwd=REPOSITORY, stdout=sys.stderr.fileno()).returncode:
        raise UserError(f"the training in {run} failed, as said above; the same command goes on from there")
    log.print(f"{run.name}: {time.monotonic() - started:.0f} s")


def measure(model: DualEncoder, pairs: Path, accelerator: Accelerator) -> Metrics:
    """Every query of an unseen product against all unseen products."""
    reader = ShardReader(pairs, "validation")
    encoder, rows = OpenClipEncoder(model, model.name).to(accelerator.device), load_rows(reader)
    embedder = Embedder(encoder, reader, rows, accelerator, 128, 2, store=None, shows_progress=False)
    embedded = embed_rows(embedder, [*LEFT, *RIGHT])
    left, _ = side_embedding(LEFT, embedded.fields, embedded.present)
    right, _ = side_embedding(RIGHT, embedded.fields, embedded.present)
    _, asking = np.unique(rows.texts("query"), return_index=True)
    scores, retrieved = (found.cpu().numpy() for found in search(left[asking], TensorVectors(right), DEPTH))
    attributes = np.array([rows.texts(name) for name in ATTRIBUTES]).T
    shared = (attributes[asking][:, None] == attributes).sum(2)  # (queries, products), 0 to 3
    ids = rows.column("item_id")
    graded = query_metrics(scores, retrieved, judgements(shared), ids).values
    exact = query_metrics(scores, retrieved, judgements(shared == len(ATTRIBUTES)), ids).values
    measured = {"ndcg@10": graded["ndcg@10"], "precision@10": exact["precision@10"], "mrr": exact["mrr"]}
    return {**{name: mean(values) for name, values in measured.items()}, "queries": len(asking), "corpus": len(rows)}


def judgements(grades: np.ndarray) -> Judgements:
    """Of a whole table: (queries, products)."""
    queries, products = grades.nonzero()
    return Judgements(queries, products, grades[queries, products].astype(np.float64))


def kept(file: Path, measured: Callable[[], Metrics]) -> Metrics:
    """What a file holds, or what is measured now and written there."""
    if not file.exists():
        write_text(file, json.dumps(measured(), indent=1) + "\n")
    metrics: Metrics = json.loads(file.read_text())
    log.print(f"{file.stem}: {metrics}")
    return metrics


def measure_seed(plan: Plan, output: Path, seed: int, accelerator: Accelerator) -> dict[str, Metrics]:
    """The start, which is the same for both weightings, and what each makes of it."""
    pairs, runs = output / "pairs", {weighting: output / f"{weighting}_{seed}" for weighting in WEIGHTINGS}

    def start() -> Metrics:
        settings = RunDirectory(runs[WEIGHTINGS[0]]).settings()
        return measure(build(settings["model"]), pairs, accelerator)

    def trained(weighting: str) -> Metrics:
        train(plan, pairs, weighting, seed, runs[weighting])
        return measure(load_model(str(runs[weighting]), None).model, pairs, accelerator)

    found = {name: kept(output / f"{name}_{seed}.json", partial(trained, name)) for name in WEIGHTINGS}
    return {START: kept(output / f"{START}_{seed}.json", start), **found}


def summary(results: dict[int, dict[str, Metrics]], name: str) -> dict[str, list[float]]:
    """One metric of every seed, and linear - constant."""
    found = {kind: [of_seed[kind][name] for of_seed in results.values()] for kind in (START, *WEIGHTINGS)}
    pairs = zip(*(found[weighting] for weighting in WEIGHTINGS), strict=True)
    return {**found, "difference": [linear - constant for constant, linear in pairs]}


def print_results(plan: Plan, results: dict[int, dict[str, Metrics]]) -> None:
    """A table for each metric, and as the last line the same as JSON."""
    one = next(iter(results.values()))[START]
    queries, corpus = one["queries"], one["corpus"]
    print(f"{queries} queries, {corpus} unseen products, {plan.steps} steps of {plan.batch_size} rows")
    line: dict[str, Any] = {"steps": plan.steps, "seeds": list(results), "queries": queries, "corpus": corpus}
    for name, title in MEASURED.items():
        columns = summary(results, name)
        table = Table("seed", title=title)
        for column in columns:
            table.add_column("linear - constant" if column == "difference" else column, justify="right")
        for place, seed in enumerate(results):
            table.add_row(str(seed), *(f"{values[place]:.4f}" for values in columns.values()))
        table.add_section()
        table.add_row("mean", *(f"{statistics.mean(values):.4f}" for values in columns.values()))
        if len(results) > 1:
            table.add_row("standard deviation", *(f"{statistics.stdev(values):.4f}" for values in columns.values()))
        Console(width=120).print(table)
        line[name] = {column: [round(value, 4) for value in values] for column, values in columns.items()}
    print(json.dumps(line))


def prepare_folder(plan: Plan, output: Path) -> None:
    """Write plan and shards, or find those that are there; another plan's trainings are not taken for this one's."""
    file, pairs = output / "plan.json", output / "pairs"
    text = json.dumps(asdict(plan), indent=1) + "\n"
    if file.exists() and file.read_text() != text:
        raise UserError(f"{file} is another plan than {asdict(plan)}; choose another --output, or the same settings")
    output.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    if not (pairs / MANIFEST).exists():  # written last
        write_pairs(plan, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    columns = ", ".join(ATTRIBUTES)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with a table of products: title, {columns}")
    parser.add_argument("--output", type=Path, required=True, help="folder; what is finished there is not done again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of order and heads (default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=120, help="of every training (default: 120, most of an epoch)")
    parser.add_argument("--quick", action="store_true", help="one seed, 8 steps, 1,000 products: a minute or two")
    arguments = parser.parse_args()
    data, output = str(arguments.data.expanduser().resolve()), arguments.output.expanduser().resolve()
    plan = Plan(data, 8, 32, 1000) if arguments.quick else Plan(data, arguments.steps, 128, None)
    prepare_folder(plan, output)
    accelerator = start_processes("float32")
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    print_results(plan, {seed: measure_seed(plan, output, seed, accelerator) for seed in seeds})


if __name__ == "__main__":
    run_command(main)
