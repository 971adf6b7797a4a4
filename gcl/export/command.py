"""`gcl export`: a checkpoint as files that other software loads.

gcl export checkpoint=runs/quickstart output_dir=exported formats=[pt]
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcl.config import load_settings
from gcl.export.pt import export_pt
from gcl.export.samples import build_samples
from gcl.parts import Part, build_as
from gcl.training.load import load_model

FORMATS = {"pt": export_pt}


@dataclass
class ExportSettings:
    """Write a checkpoint in other software's formats; each is loaded by that software and compared before it stays."""

    checkpoint: str  # a run, a checkpoint folder, a .pt or .safetensors file, ViT-B-16-SigLIP/webli, hf-hub:ORG/NAME
    output_dir: str  # folder for the files
    formats: list[Literal["pt"]] = field(default_factory=lambda: ["pt"])  # pt: a state dict for open_clip
    model: Part | None = None  # architecture of a .pt or .safetensors file


def main(arguments: list[str]) -> None:
    chosen = load_settings("export", ExportSettings, arguments)
    settings: ExportSettings = build_as(ExportSettings, {**chosen, "model": None})
    loaded = load_model(settings.checkpoint, chosen["model"])
    output = Path(settings.output_dir).expanduser().resolve()
    output.mkdir(parents=True, exist_ok=True)
    samples = build_samples(loaded)
    for name in settings.formats:
        FORMATS[name](loaded.model, output, samples)
