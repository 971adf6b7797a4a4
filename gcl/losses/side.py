"""A side of a pair: a weighted set of fields with one embedding."""

import torch
from torch import Tensor
from torch.nn import functional

Side = dict[str, float]  # field -> weight


def side_embedding(side: Side, fields: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The L2-normalised weighted sum of the side's field embeddings, and which rows have any of its fields.

    A missing field gets weight 0 in its row; normalising rescales the rest.

    Args:
        side: field -> weight.
        fields: field -> (rows, dim) normalised embeddings.
        present: field -> (rows,) bool.

    Returns:
        (rows, dim), zero where no field is present, and (rows,) bool.
    """
    total = torch.stack([weight * (present[name][:, None] * fields[name]) for name, weight in side.items()]).sum(0)
    return functional.normalize(total, dim=-1), torch.stack([present[name] for name in side]).any(0)
