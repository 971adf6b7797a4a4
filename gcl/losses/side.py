"""A side of a pair: a weighted set of fields with one embedding."""

import torch
from torch import Tensor
from torch.nn import functional

Side = dict[str, float]  # field -> weight


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 where it was less; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def prefix(side: Tensor, dim: int) -> Tensor:
    """The first `dim` dimensions of a finished side embedding, normalised again (Matryoshka, arXiv 2205.13147)."""
    return functional.normalize(side[:, :dim], dim=-1)


def side_embedding(side: Side, fields: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The L2-normalised weighted sum of the side's field embeddings, and which rows have any of its fields.

    A missing field gets weight 0 in its row; normalising rescales the rest.

    Args:
        side: field -> weight.
        fields: field -> (rows, dim) normalised embeddings.
        present: field -> (rows,) bool.

    Returns:
        (rows, dim), at least float32, zero where no field is present, and (rows,) bool.
    """
    parts = [weight * (present[name][:, None] * at_least_float32(fields[name])) for name, weight in side.items()]
    total = torch.stack(parts).sum(0)
    return functional.normalize(total, dim=-1), torch.stack([present[name] for name in side]).any(0)
