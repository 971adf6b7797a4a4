"""A folder for temporary files that is removed with the process that made it, at the latest by the next one."""

import contextlib
import functools
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

from gcl.data.storage.block_cache import try_lock
from gcl.errors import UserError

PREFIX = "gcl-blocks-"
UNLOCKED = "gcl-new-"  # until it is locked


def temporary_folder() -> Path:
    """This process's folder, the same one at each call."""
    return folder_of_process(os.getpid())


@functools.cache
def folder_of_process(process: int) -> Path:
    """A new folder, locked for as long as this process and those forked from it live."""
    try:
        new = Path(tempfile.mkdtemp(prefix=UNLOCKED))
        remove_left_over(new.parent)
        # A lock says more than a process id, which means nothing in another container. It is on the folder itself:
        # systemd-tmpfiles leaves folders alone that are locked.
        try_lock(os.open(new, os.O_RDONLY))  # open, and so locked, until the process ends
        folder = new.rename(new.with_name(new.name.replace(UNLOCKED, PREFIX)))
    except OSError as error:
        raise UserError(
            f"no temporary folder can be made for blocks of remote shards ({error}); set TMPDIR or data.cache.folder "
            "to a folder on a local disk"
        ) from error
    # Unlike atexit's, it also runs at the end of a process that multiprocessing started, and never in a forked copy.
    # Last of all: processes that read may still be stopped before.
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-100)
    return folder


def remove_left_over(parent: Path) -> None:
    """Remove this user's folders whose processes are gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or removed by another process at this moment
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.getuid() and try_lock(descriptor):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
