"""What every test runs under: no network, no account, one thread per process.

Set before any test module imports torch or transformers, and inherited by the processes that tests start.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One thread keeps float sums equal from machine to machine, and two processes from fighting over two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
