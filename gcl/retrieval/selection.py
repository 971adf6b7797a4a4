"""Selecting from rows of scores, each kind in the way that is quick on its device.

On a CPU, NumPy compares, counts and partitions on one thread several times quicker than torch does.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PART = 512  # rows that are copied at once


def best(scores: Tensor, numbers: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The first `depth` columns by descending score, equal ones in column order: a stable sort that stops early."""
    # topk takes any of several equal values, so each column gets its own: the score's bits, made to sort as integers
    # do, above the column's number. Adding 0 turns -0 into 0.
    bits = (scores + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = (ordered << 32) - torch.arange(scores.shape[1], device=scores.device)
    places = keys.topk(min(depth, scores.shape[1])).indices
    return scores.gather(1, places), numbers.gather(1, places)


def highest(values: Tensor, count: int) -> Tensor:
    """The `count` highest values of each row, in no order: (rows, count) float32; -inf where a row has fewer."""
    rows, columns = values.shape
    if columns < count:
        return functional.pad(values.float(), (0, count - columns), value=-torch.inf)
    if values.device.type == "cpu":
        parts = (np.partition(part.float().numpy(), columns - count, axis=1) for part in values.split(PART))
        return torch.from_numpy(np.concatenate([part[:, columns - count :] for part in parts]))
    return values.float().topk(count, dim=1, sorted=False).values


def places_above(values: Tensor, thresholds: Tensor) -> Tensor:
    """Where values lie above the thresholds of their rows; also some at most a rounding to bfloat16 below.

    Args:
        values: (rows, columns) float32 or bfloat16.
        thresholds: (rows,) float32.

    Returns:
        (found,) int64 places in the flattened values, ascending.
    """
    if values.device.type != "cpu":
        return flat_nonzero(values > thresholds[:, None])
    if values.dtype == torch.bfloat16 and bool((thresholds > 0).all()):
        # The bits of positive numbers sort as integers do; the upper half of a float32's are the bfloat16 below it.
        numbers, limits = values.view(torch.int16), (thresholds.view(torch.int32) >> 16).to(torch.int16)
    else:
        numbers, limits = values.float(), thresholds
    return torch.from_numpy(np.flatnonzero(numbers.numpy() > limits[:, None].numpy()))


def flat_nonzero(mask: Tensor) -> Tensor:
    """The places of the true ones in the flattened mask, ascending: (true,) int64."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero().squeeze(1)


def spread(values: Tensor, counts: Tensor) -> Tensor:
    """Each value as often as its count says: (sum of counts,)."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.repeat(values.numpy(), counts.numpy()))
    return values.repeat_interleave(counts)
