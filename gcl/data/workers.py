"""A data worker that dies, told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from gcl.errors import UserError


@contextmanager
def told_of_workers(remedy: str) -> Iterator[None]:
    """Turn what a DataLoader raises when one of its processes is gone into a `UserError`.

    Args:
        remedy: how the work goes on.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a data worker died, perhaps for want of memory; {remedy}") from None
