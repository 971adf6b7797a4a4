"""`gcl latency`: milliseconds for one text and one image, and rows per second by batch size, of a model on a device.

gcl latency checkpoint=runs/mine device=cpu threads=1
"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gcl.config import load_settings
from gcl.distributed import Precision
from gcl.encoders.load import load_encoder
from gcl.errors import UserError
from gcl.files import write_text
from gcl.parts import Part, build_as
from gcl.progress import progress_bar
from gcl.retrieval.timing import PHOTO_PIXELS, Latency, Stopwatch, measure_latency

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}
LIBRARIES = ("torch", "open_clip_torch", "transformers")
CPU_BATCH_SIZES, GPU_BATCH_SIZES = [1, 8, 32], [1, 8, 32, 128, 512]
CPU_INFO = Path("/proc/cpuinfo")  # Linux's
MEASURED = {
    "text": "title, tokenised within",
    "image": "prepared image",
    "decode": f"JPEG of {PHOTO_PIXELS} px, prepared",
}
PUBLISHED = {"model": "Marqo-Ecommerce-B", "text": 5.1, "image": 5.7}  # milliseconds, on its authors' hardware


@dataclass
class LatencySettings:
    """Measure how long a model takes for one text and for one image, and what goes through in batches."""

    checkpoint: str  # run, checkpoint folder, .pt, .safetensors, ViT-B-16-SigLIP/webli, hf-hub:NAME, transformers:NAME
    device: str | None = None  # cpu, cuda, cuda:1, ...; null: a GPU where there is one
    precision: Precision = "float32"  # of the towers' matrix products
    threads: int | None = None  # of the CPU's matrix products and image resizing; null: as many as torch takes
    batch_sizes: list[int] | None = None  # rows encoded at once; null: 1, 8, 32, on a GPU also 128 and 512
    seconds: float = 2.0  # of each measurement; the call that is under way then is finished
    output_dir: str | None = None  # folder for latency.json and latency.md; null: only printed
    model: Part | None = None  # architecture of a .pt or .safetensors file
    trust_remote_code: bool = False  # run Python code that comes with a transformers: or sentence-transformers: model

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"seconds={self.seconds} must be above 0")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads={self.threads} must be at least 1")
        if self.batch_sizes is not None and (not self.batch_sizes or min(self.batch_sizes) < 1):
            raise UserError(f"batch_sizes={self.batch_sizes} must be one or more numbers from 1 up, such as [1,8,32]")


def main(arguments: list[str]) -> None:
    chosen = load_settings("latency", LatencySettings, arguments)
    settings: LatencySettings = build_as(LatencySettings, {**chosen, "model": None})
    output = Path(settings.output_dir).expanduser() if settings.output_dir else None
    if output is not None and output.is_file():
        raise UserError(f"output_dir {output} is a file; give a folder")
    device = device_from_name(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = load_encoder(settings.checkpoint, chosen["model"], settings.trust_remote_code).encoder.to(device)
    batch_sizes = settings.batch_sizes or (CPU_BATCH_SIZES if device.type == "cpu" else GPU_BATCH_SIZES)
    stopwatch = Stopwatch(device, DTYPES[settings.precision], settings.seconds)
    with progress_bar() as progress:
        latency = measure_latency(encoder, device, stopwatch, batch_sizes, progress)
    found = summary(latency, encoder.name, device, settings.precision)
    show(found)
    if output is not None:
        write_latency(found, output)


def device_from_name(name: str | None) -> torch.device:
    """The device of that name; without one, a GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name is None:
        return found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here; there is {found.type}") from error
    if device.type not in ("cpu", found.type):  # such as meta, which computes nothing
        raise UserError(f"device={name} computes nothing; there is {found.type}")
    return device


def summary(latency: Latency, model: str, device: torch.device, precision: Precision) -> dict[str, Any]:
    """What latency.json holds."""
    found: dict[str, Any] = {
        "model": model,
        "device": str(device),
        "device_name": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }
    for name, timing in (("text", latency.text), ("image", latency.image), ("decode", latency.decode)):
        found[f"{name}_milliseconds"] = timing.median_milliseconds
        found[f"{name}_p95_milliseconds"] = timing.p95_milliseconds
        found[f"{name}_calls"] = len(timing.seconds)
    found["throughput"] = [asdict(row) for row in latency.throughput]
    found["versions"] = {name: version(name) for name in LIBRARIES}
    return found


def device_name(device: torch.device) -> str:
    """What the hardware is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def tables(found: dict[str, Any]) -> list[list[list[str]]]:
    """Latency, then throughput: rows of cells, the first row their headings."""
    latency = [["one", "median ms", "p95 ms", "calls", str(PUBLISHED["model"])]]
    for name, what in MEASURED.items():
        times = [f"{found[f'{name}_{kind}']:.2f}" for kind in ("milliseconds", "p95_milliseconds")]
        latency.append([what, *times, str(found[f"{name}_calls"]), str(PUBLISHED.get(name, ""))])
    throughput = [["batch size", "titles per second", "images per second"]]
    for row in found["throughput"]:
        rates = [row["texts_per_second"], row["images_per_second"]]
        cells = ["out of memory" if rate is None else f"{rate:.1f}" for rate in rates]
        throughput.append([str(row["batch_size"]), *cells])
    return [latency, throughput]


def notes(found: dict[str, Any]) -> list[str]:
    """Where it was measured, and what the tables do not say."""
    where = f"{found['device']} ({found['device_name']}), {found['threads']} CPU threads, {found['precision']}"
    where = f"{where}, torch {found['versions']['torch']}"
    return [
        f"Measured on {where}, each call until the device is done, after a warm-up.",
        "Prepared images lie on the device; a JPEG is decoded and resized on the CPU.",
        f"{PUBLISHED['model']}: milliseconds as published, on its authors' hardware.",
    ]


def show(found: dict[str, Any]) -> None:
    console = Console()
    for number, (heading, *rows) in enumerate(tables(found)):
        table = Table(title=None if number else found["model"])
        for place, name in enumerate(heading):
            table.add_column(name, justify="right" if place or number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(*notes(found), sep="\n", highlight=False, soft_wrap=True)


def write_latency(found: dict[str, Any], folder: Path) -> None:
    """latency.json and latency.md."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# Latency of {found['model']}"]
    for heading, *rows in tables(found):
        ruled = [heading, ["---"] * len(heading), *rows]
        lines += ["", *(f"| {' | '.join(row)} |" for row in ruled)]
    write_text(folder / "latency.md", "\n".join([*lines, "", *notes(found)]) + "\n")
    write_text(folder / "latency.json", json.dumps(found, indent=1) + "\n")
