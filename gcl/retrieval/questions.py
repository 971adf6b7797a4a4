"""What a task asks: queries, the documents that are searched, and which of them are relevant."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from gcl.retrieval.metrics import Judgements


@dataclass(frozen=True)
class Questions:
    """The queries of a task and what is known of them, apart from any model."""

    query_ids: list[str]  # unique
    texts: list[str]  # as people read them
    document_ids: pa.StringArray  # (documents,), unique
    judgements: Judgements
    slices: dict[str, list[str]] = field(default_factory=dict)  # name -> which part of it each query belongs to
    own: np.ndarray | None = None  # (queries,) the document whose row asks, the one that is wanted most; None: unknown
