"""Marqo-GS-10M, the Google Shopping data set of the GCL paper, as its authors publish it: CSV files beside images.

gcl prepare source=marqo_gs source.path=marqo-gs-dataset/marqo_gs_wfash_1m source.images=images_wfash output_dir=DIR

The layout is the one that github.com/marqo-ai/GCL describes and reads (README.md, evals/eval_gs_v1.py,
scripts/change_image_paths.py): marqo_gs_full_10m, marqo_gs_fashion_5m and marqo_gs_wfash_1m each hold four CSV files,
query_Q_product_id_P.csv, where Q and P are 0 for queries and products that were trained on and 1 for unseen ones. The
columns that are read there are query, product_id, title, image_local (a path inside the images' folder, or an absolute
one after that script was run) and score_linear; position and score_reciprocal are named by the data set's card on the
Hugging Face Hub. The scores fall with the position in the search results; they are taken as they are.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePath
from typing import Literal

from gcl.data.record import ITEM_ID, SCORE, Refusal, SourceRow
from gcl.data.sources.catalog import IMAGE, TITLE, source_row
from gcl.data.sources.table import Row, column_names, count_rows, find_table, read_rows
from gcl.errors import UserError

Split = Literal["in_domain", "novel_query", "novel_document", "zero_shot"]
FILES: dict[Split, str] = {
    "in_domain": "query_0_product_id_0.csv",
    "novel_query": "query_1_product_id_0.csv",
    "novel_document": "query_0_product_id_1.csv",
    "zero_shot": "query_1_product_id_1.csv",
}
QUERY, POSITION = "query", "position"


class MarqoGSSource:
    """The pairs of query and product of one split, in order, with their score.

    A row has the fields item_id, query, title, score, position (if the file has it) and the image.

    Raises:
        UserError: a folder or file that is not there, or a file without the columns above.
    """

    def __init__(
        self,
        path: str,  # the folder with query_0_product_id_0.csv and its like, or one such file
        images: str,  # the folder that image_local is relative to
        split: Split = "in_domain",  # in_domain (to train on), novel_query, novel_document or zero_shot; not for a file
        score: Literal["linear", "reciprocal"] = "linear",  # which of the two scores is the row's
    ) -> None:
        self.folder = Path(images).expanduser().resolve()
        if not self.folder.is_dir():
            raise UserError(f"images={images} is no folder; give the one that the images were unpacked to")
        self.table = split_file(Path(path).expanduser(), split)
        self.columns = {
            ITEM_ID: "product_id",
            QUERY: "query",
            TITLE: "title",
            IMAGE: "image_local",
            SCORE: f"score_{score}",
        }
        present = column_names(self.table)
        lacking = [column for column in self.columns.values() if column not in present]
        if lacking:
            raise UserError(
                f"{self.table} has no column {lacking[0]}; it has {', '.join(present)}; a file of Marqo-GS-10M has "
                f"{', '.join(self.columns.values())}"
            )
        if POSITION in present:
            self.columns[POSITION] = POSITION

    def __len__(self) -> int:
        return self._rows

    @cached_property
    def _rows(self) -> int:
        return count_rows(self.table)

    def __iter__(self) -> Iterator[SourceRow | Refusal]:
        for row in read_rows(self.table):
            yield row if isinstance(row, Refusal) else self._source_row(row)

    def _source_row(self, row: Row) -> SourceRow | Refusal:
        cells = {column: row.cells[column] for column in self.columns.values() if column in row.cells}
        found = source_row(Row(row.origin, cells), self.columns)
        if isinstance(found, Refusal) or not found.images[IMAGE]:
            return found
        # The authors' script may have written another machine's folder before the name.
        named = str(found.images[IMAGE][0])
        candidates = tuple(dict.fromkeys((named, PurePath(named).name)))
        return SourceRow(found.fields, {IMAGE: candidates}, found.origin)


def split_file(path: Path, split: Split) -> Path:
    """The CSV file of a split in the folder `path`, or `path` itself.

    Raises:
        UserError: it is not there.
    """
    if path.is_file():
        return find_table(path)
    if not path.is_dir():
        raise UserError(f"{path} does not exist; give the folder of Marqo-GS-10M that holds {FILES[split]}")
    if (path / FILES[split]).is_file():
        return path / FILES[split]
    there = sorted(file.relative_to(path).as_posix() for file in [*path.glob("*.csv"), *path.glob("*/query_*.csv")])
    raise UserError(
        f"{path} holds no {FILES[split]}, the file of split={split}; there is {', '.join(there[:8]) or 'no CSV file'}"
    )
