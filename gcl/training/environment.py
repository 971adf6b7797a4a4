"""Where a run runs: what environment.json says."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "accelerate")


def environment(processes: int) -> dict[str, Any]:
    """Versions, commit, command, processes, device names."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": " ".join(sys.argv),
        "processes": processes,
        "devices": devices or [f"CPU {platform.processor() or platform.machine()} x {os.cpu_count()}"],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of the checkout that gcl runs from, or None when it is installed."""
    checkout = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    answer = subprocess.run([git, "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
