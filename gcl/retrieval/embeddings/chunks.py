"""How items to be encoded are shared among processes: in chunks, each encoded whole and by the same batches.

What a chunk becomes depends neither on the number of processes nor on where an earlier one stopped.
"""

from dataclasses import dataclass, replace

from gcl.distributed import rank, world_size

SMALLEST, LARGEST, CHUNKS = 128, 1024, 256


@dataclass(frozen=True)
class Piece:
    """Consecutive items that are encoded at once: a chunk or a part of one."""

    chunk: int
    start: int
    stop: int
    is_last: bool  # of its chunk
    counts: bool = True  # False: a repeat whose result is dropped


def chunk_size(items: int) -> int:
    """Small enough for every process to have some, large enough for a file to be written in few pieces."""
    return min(LARGEST, max(SMALLEST, items // CHUNKS))


def chunk_count(items: int) -> int:
    return -(-items // chunk_size(items))


def item_count(chunks: list[int], items: int) -> int:
    """Of these chunks, all of which have as many items but perhaps the last."""
    size = chunk_size(items)
    return sum(min(items, (chunk + 1) * size) - chunk * size for chunk in chunks)


def own_pieces(missing: list[int], items: int, batch_size: int) -> list[Piece]:
    """The pieces that this process encodes of the missing chunks.

    Every process has as many, the last one repeated where needed: a sharded model waits for all in each forward pass.
    """
    shares = [pieces_of(missing[number :: world_size()], items, batch_size) for number in range(world_size())]
    most = max(len(share) for share in shares)
    if most == 0:
        return []
    own = shares[rank()]
    repeat = replace((own or shares[0])[-1], counts=False)
    return own + [repeat] * (most - len(own))


def pieces_of(chunks: list[int], items: int, batch_size: int) -> list[Piece]:
    size = chunk_size(items)
    pieces = []
    for chunk in chunks:
        end = min(items, (chunk + 1) * size)
        for start in range(chunk * size, end, batch_size):
            stop = min(end, start + batch_size)
            pieces.append(Piece(chunk, start, stop, stop == end))
    return pieces
