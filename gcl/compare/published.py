"""The rows that Marqo published for its benchmark (huggingface.co/Marqo/marqo-ecommerce-embeddings-L), as entries."""

import csv
from pathlib import Path

from gcl.compare.entry import Entry

TABLE = Path(__file__).with_name("marqo_ecommerce.csv")  # regime, task, model, metric, value
# Rows of the data sets, of which the hard regime searches all. Those of the easy one are about 100,000, and which is
# not known.
HARD_ROWS = {"google_shopping": 982_700, "amazon_products": 3_340_000}
REGIMES = HARD, EASY = "hard", "easy"
TOLERANCE = 0.1  # of the number of rows: some images can no longer be read


def load_published() -> list[Entry]:
    """Every published model at every task, in the order of the table."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["regime"], row["task"], row["model"]), {})[row["metric"]] = float(row["value"])
    return [
        Entry(model, task, regime, metrics, is_published=True, corpus=rows_of(task) if regime == HARD else None)
        for (regime, task, model), metrics in found.items()
    ]


def rows_of(task: str) -> int:
    return next(rows for name, rows in HARD_ROWS.items() if task.startswith(name))


def is_level(published: Entry, measured: Entry) -> bool:
    """Whether two entries are of the same rows: all of them, in the hard regime."""
    if published.corpus is None or measured.corpus is None:
        return False
    return abs(measured.corpus - published.corpus) <= TOLERANCE * published.corpus
