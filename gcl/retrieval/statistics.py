"""How far a mean over queries can be trusted: bootstrap intervals, and a test of two runs on the same queries."""

import numpy as np

BLOCK_ELEMENTS = 2_000_000  # queries x resamples that are in memory together
TOLERANCE = 1e-10  # of the sum of absolute differences: what rounding may change in a sum


def bootstrap_intervals(
    values: dict[str, np.ndarray], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over queries (Efron 1979, Annals of Statistics 7) of each metric's mean.

    Args:
        values: metric -> (queries,); the same resamples of the queries serve all metrics.
        level: share of the resamples' means that lie within the interval.
        resamples: how often as many queries are drawn as there are, with replacement.
        seed: of the draws.

    Returns:
        metric -> its lower and upper end.
    """
    table = np.stack(list(values.values()), axis=1)  # (queries, metrics)
    queries = len(table)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, len(values)))
    block = max(1, BLOCK_ELEMENTS // queries)
    for start in range(0, resamples, block):
        drawn = rng.integers(0, queries, (min(block, resamples - start), queries))
        counts = np.array([np.bincount(resample, minlength=queries) for resample in drawn], dtype=np.float64)
        means[start : start + block] = counts @ table / queries
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    return {name: (low[i], high[i]) for i, name in enumerate(values)}


def randomization_test(a: np.ndarray, b: np.ndarray, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the difference of two runs' means: Fisher's randomisation test (Smucker et al., CIKM 2007).

    Were the runs alike, each query's two values could as well be exchanged. p is the share of random exchanges whose
    difference of means is at least as far from 0 as the one observed, which itself counts as one of them.

    Args:
        a: (queries,) one run's values.
        b: (queries,) the other's, of the same queries in the same order.
        permutations: how often the queries' signs are drawn.
        seed: of the draws.
    """
    differences = (a - b).astype(np.float64)
    differences = differences[differences != 0]  # an exchange of equal values changes nothing
    extreme = abs(differences.sum()) - TOLERANCE * np.abs(differences).sum()
    rng = np.random.default_rng(seed)
    count = 0
    block = max(1, BLOCK_ELEMENTS // max(1, len(differences)))
    for start in range(0, permutations, block):
        shape = (min(block, permutations - start), -(-len(differences) // 8))
        flipped = np.unpackbits(rng.integers(0, 256, shape, dtype=np.uint8), axis=1, count=len(differences))
        sums = differences.sum() - 2 * (flipped.astype(np.float64) @ differences)
        count += int((np.abs(sums) >= extreme).sum())
    return (1 + count) / (1 + permutations)
