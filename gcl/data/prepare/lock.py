"""One preparation at a time in a folder: either the whole, or different parts beside each other."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcl.errors import UserError

LOCK = "lock"


@contextmanager
def sole_use(folder: Path, part: str | None) -> Iterator[None]:
    """Keep others from writing the same; the kernel lets go of the locks of a process that was killed.

    Raises:
        UserError: another process is at work there.
    """
    whole = folder / LOCK
    own = whole if part is None else folder / f"{LOCK}-{part.replace('/', '-of-')}"
    with whole.open("a") as shared, own.open("a") as alone:
        try:
            if part is not None:
                fcntl.flock(shared, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another gcl prepare is at work in {folder}; wait for its end, or end it first") from error
        except OSError:
            pass  # a file system without locks: there nobody looks
        yield
