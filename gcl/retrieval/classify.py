"""`gcl classify`: which of some labels fit an image, without training for them (zero-shot).

gcl classify checkpoint=runs/mine image=photo.jpg 'labels=[dress, running shoe, "t-shirt, blue"]'
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gcl.config import load_settings
from gcl.data.fetch.records import ImageSettings, fetch_records, is_address
from gcl.data.record import Refusal, SourceRow
from gcl.encoders.encoder import Encoder
from gcl.encoders.load import load_encoder
from gcl.errors import UserError
from gcl.files import write_text
from gcl.parts import Part, build_as
from gcl.progress import progress_bar

PLACE = "{}"  # in a template: where the label stands
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # of a folder's images
BATCH_SIZE = 32  # images encoded at once
BAR = 20  # characters
LIST_HINT = """write a list in brackets, commas in quotes: 'labels=[running shoe, "t-shirt, blue"]'"""


@dataclass
class ClassifySettings:
    """Say which of some labels fit an image, with a model that was never trained on these labels."""

    checkpoint: str  # run, checkpoint folder, .pt, .safetensors, ViT-B-16-SigLIP/webli, hf-hub:NAME, transformers:NAME
    image: str | list[str]  # a file, a folder, an http(s) address, or a list of them
    labels: list[str]  # what an image may show: '[dress, running shoe, "t-shirt, blue"]'
    template: str = PLACE  # the text that is compared with an image, {} in it the label, such as "a photo of {}"
    scale: float | Literal["model"] = 100.0  # times the cosine, then a softmax; model: its own scale and bias
    output_dir: str | None = None  # folder for classification.json; null: only printed
    model: Part | None = None  # architecture of a .pt or .safetensors file
    trust_remote_code: bool = False  # run Python code that comes with a transformers: or sentence-transformers: model

    def __post_init__(self) -> None:
        self.labels = [label.strip() for label in self.labels]
        repeated = [label for number, label in enumerate(self.labels) if label in self.labels[:number]]
        if not self.labels or not all(self.labels):
            raise UserError(f"labels={self.labels} must name what an image may show; {LIST_HINT}")
        if repeated:
            raise UserError(f"labels name {repeated[0]!r} twice, and would halve its probability; name each once")
        if PLACE not in self.template:
            raise UserError(f"template={self.template!r} does not say where the label stands; put {PLACE} there")
        if self.scale != "model" and not 0 < self.scale < float("inf"):
            raise UserError(f"scale={self.scale} must be above 0; 100 is usual, scale=model takes the model's own")


@runtime_checkable
class Scaled(Protocol):
    """An encoder that knows what it was trained to multiply its cosines by, and to add."""

    @property
    def logit_scale(self) -> float:
        """The factor itself, not its logarithm."""

    @property
    def logit_bias(self) -> float | None:
        """None: it was trained with a softmax, which has none."""


@dataclass(frozen=True)
class Logits:
    """How cosines become probabilities."""

    scale: float
    bias: float | None  # None: a softmax over the labels; else a sigmoid for each

    def probabilities(self, cosines: Tensor) -> Tensor:
        """(images, labels) likewise."""
        logits = cosines * self.scale
        return logits.softmax(-1) if self.bias is None else (logits + self.bias).sigmoid()

    def __str__(self) -> str:
        if self.bias is None:
            return f"softmax of {self.scale:.6g} x cosine"
        return f"sigmoid of {self.scale:.6g} x cosine {self.bias:+.6g}, for each label on its own"


def main(arguments: list[str]) -> None:
    chosen = load_settings("classify", ClassifySettings, arguments)
    settings: ClassifySettings = build_as(ClassifySettings, {**chosen, "model": None})
    output = Path(settings.output_dir).expanduser() if settings.output_dir else None
    if output is not None and output.is_file():
        raise UserError(f"output_dir {output} is a file; give a folder")
    names = image_names([settings.image] if isinstance(settings.image, str) else settings.image)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    encoder = load_encoder(settings.checkpoint, chosen["model"], settings.trust_remote_code).encoder.to(device)
    logits = build_logits(encoder, settings.scale)
    if len(settings.labels) == 1 and logits.bias is None:
        raise UserError(f"labels={settings.labels} names one, which a softmax is always sure of; name two or more")
    texts = [settings.template.replace(PLACE, label) for label in settings.labels]
    probabilities = logits.probabilities(cosines(encoder, names, texts, device)).tolist()
    found = [dict(zip(settings.labels, row, strict=True)) for row in probabilities]
    show(dict(zip(names, found, strict=True)), f"{encoder.name}: {logits}")
    if output is not None:
        facts = {"model": encoder.name, "template": settings.template, "scale": logits.scale, "bias": logits.bias}
        images = [{"image": name, "probabilities": row} for name, row in zip(names, found, strict=True)]
        write_classification(output, {**facts, "images": images})


def image_names(images: list[str]) -> list[str]:
    """Files and addresses, a folder replaced by the images that lie in it.

    Raises:
        UserError: there is no such file, or no image in a folder.
    """
    names: list[str] = []
    for image in images:
        path = Path(image).expanduser()
        if is_address(image):
            names.append(image)
        elif path.is_dir():
            files = [file for file in path.iterdir() if not file.name.startswith(".")]
            inside = sorted(str(file) for file in files if file.suffix.lower() in SUFFIXES)
            names += inside
            if not inside:
                raise UserError(f"image={image} holds no image; it is searched for {', '.join(SUFFIXES)}")
        elif path.is_file():
            names.append(str(path))
        else:
            raise UserError(f"image={image} is no file, folder or http(s) address; a list has brackets: 'image=[a,b]'")
    if not names:
        raise UserError("image=[] names no image; give a file, a folder or a list of them")
    return list(dict.fromkeys(names))


def read_images(names: list[str]) -> Iterator[bytes]:
    """The bytes of each, checked to be a whole image.

    Raises:
        UserError: one cannot be had or read.
    """
    paths = [name if is_address(name) else str(Path(name).resolve()) for name in names]
    rows = [SourceRow({}, {"image": (path,)}, name) for path, name in zip(paths, names, strict=True)]
    for found in fetch_records(rows, Path("/"), ImageSettings(short_side=None)):
        if isinstance(found, Refusal):
            raise UserError(f"image={found.origin} cannot be classified: {found.reason}; {found.detail}")
        yield found.images["image"]


def build_logits(encoder: Encoder, scale: float | Literal["model"]) -> Logits:
    """That scale and a softmax, or what the model was trained with.

    Raises:
        UserError: the model has no scale of its own.
    """
    if scale != "model":
        return Logits(scale, None)
    if not isinstance(encoder, Scaled):
        raise UserError(f"scale=model: {encoder.name} has no scale of its own; give a number, such as scale=100")
    return Logits(encoder.logit_scale, encoder.logit_bias)


def cosines(encoder: Encoder, names: list[str], texts: list[str], device: torch.device) -> Tensor:
    """(images, texts) on the CPU."""
    embedded, images, rows = encoder.encode_texts(texts), read_images(names), []
    with progress_bar() as progress:
        task = progress.add_task("images", total=len(names))
        while batch := list(islice(images, BATCH_SIZE)):
            pixels = torch.stack([encoder.read_image(image) for image in batch]).to(device)
            rows.append((encoder.encode_images(pixels) @ embedded.T).cpu())
            progress.advance(task, len(batch))
    return torch.cat(rows)


def show(found: dict[str, dict[str, float]], note: str) -> None:
    """Print every label of one image, the likeliest first; of several images the likeliest label of each."""
    if len(found) == 1:
        [(image, row)] = found.items()
        table = Table("label", "probability", "", title=Text(image))  # Text: a name may hold [brackets]
        for label in sorted(row, key=row.__getitem__, reverse=True):
            table.add_row(Text(label), f"{row[label]:.4f}", bar(row[label]))
    else:
        table = Table("image", "label", "probability", "")
        for image, row in found.items():
            label = max(row, key=row.__getitem__)
            table.add_row(Text(image, overflow="fold"), Text(label), f"{row[label]:.4f}", bar(row[label]))
    console = Console()
    console.print(table)
    console.print(note, highlight=False, markup=False, soft_wrap=True)


def bar(probability: float) -> Bar:
    return Bar(1, 0, probability, width=BAR)


def write_classification(folder: Path, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "classification.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
