"""What makes training on a CPU fast: a thread for each core, and memory that is kept instead of returned."""

import ctypes
import os
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def use_all_cores(processes: int) -> None:
    """Share this machine's cores among its processes; `accelerate launch` would leave each process one thread.

    An OMP_NUM_THREADS above 1 is the user's own choice and stays.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def keep_memory() -> None:
    """Let glibc keep freed memory: returning it and faulting it in again costs a third of a CPU step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
