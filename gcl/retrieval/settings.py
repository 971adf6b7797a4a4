"""The settings of `gcl evaluate`."""

from dataclasses import dataclass, field

from gcl.distributed import Precision
from gcl.errors import UserError
from gcl.parts import Part
from gcl.retrieval.embeddings.store import StoredType


@dataclass
class SearchedData:
    """The rows that are searched."""

    path: str | None = None  # folder written by gcl prepare; null: the run's
    split: str = "validation"  # which of its splits
    corpus: list[str] = field(default_factory=list)  # further folders, whose rows are searched too but ask nothing
    workers: int = 2  # worker processes that decode images, per process


@dataclass
class StoreSettings:
    """Embeddings on disk: found again for the same weights, preprocessing and data, gone on with after a kill."""

    folder: str = "~/.cache/gcl/embeddings"  # on a disk that all processes see; it may be removed at any time
    type: StoredType = "float32"  # float16: half the disk, and scores that differ in the fourth digit


@dataclass
class EvaluateSettings:
    """Search one split with one model and measure."""

    task: Part  # what asks, what answers and what is relevant
    checkpoint: str | None = None  # run, file of weights, ViT-B-16-SigLIP/webli, hf-hub:NAME, transformers:NAME ...
    data: SearchedData = field(default_factory=SearchedData)  # what is searched
    output_dir: str | None = None  # folder for metrics.json, per_query.parquet and report.html; null: only printed
    embeddings: StoreSettings = field(default_factory=StoreSettings)  # where they are kept
    batch_size: int = 128  # rows encoded at once, per process
    precision: Precision | None = None  # of the towers' matrix products; null: the run's, or float32
    model: Part | None = None  # architecture of a .pt or .safetensors file
    trust_remote_code: bool = False  # run Python code that comes with a transformers: or sentence-transformers: model

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size} must be at least 1")
