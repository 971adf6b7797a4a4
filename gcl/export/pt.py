"""The `pt` format: an open_clip state dict with its model config as JSON beside it."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import HFTokenizer
from rich.console import Console
from torch import Tensor

from gcl.errors import UserError
from gcl.export.samples import Samples
from gcl.files import write_text
from gcl.models.dual_encoder import DualEncoder

MAX_DIFFERENCE = 1e-4  # of any entry of a normalised embedding, from the same pixels and token ids
MIN_COSINE = 0.99  # from raw files: open_clip resizes with Pillow, and its pixels differ a little
LOADER = Path(__file__).with_name("load_pt_with_open_clip.py")


def export_pt(model: DualEncoder, output: Path, samples: Samples) -> None:
    """Write NAME.pt and NAME.json, load them with open_clip in a fresh process, compare, and only then keep NAME.pt.

    Raises:
        UserError: open_clip cannot load what was written, or embeds the samples differently.
    """
    name = model.name.removeprefix("hf-hub:").removeprefix("local-dir:").strip("/").rpartition("/")[2]
    config, weights, unverified = output / f"{name}.json", output / f"{name}.pt", output / f"{name}.unverified.pt"
    write_text(config, json.dumps(exported_config(model, output), indent=2) + "\n")
    torch.save(exported_state(model), unverified)
    try:
        compared = compare(unverified, config, name, model, samples)
    except UserError:
        unverified.unlink()
        raise
    unverified.rename(weights)
    console = Console()
    console.print(f"{weights}: loaded by open_clip in a fresh process; {compared}", soft_wrap=True, highlight=False)
    console.print(snippet(weights, config, name, model), soft_wrap=True, highlight=False)


def exported_state(model: DualEncoder) -> dict[str, Tensor]:
    """open_clip's own names and shapes: scale and bias are scalars there."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    return state | {name: state[name].reshape(()) for name in ("logit_scale", "logit_bias") if name in state}


def exported_config(model: DualEncoder, output: Path) -> dict[str, Any]:
    """The open_clip model config; a Hugging Face tokenizer and text tower's config lie beside it."""
    # transformers reads a folder by its path alone: move the export, and these two entries move with it.
    folder = (output / "text").resolve()
    text = dict(model.architecture["text_cfg"])
    if model.masks_padding:
        model.network.text.config.save_pretrained(folder)
        text["hf_model_name"] = str(folder)
    if isinstance(model.tokenizer, HFTokenizer):
        model.save_tokenizer(folder)
        text["hf_tokenizer_name"] = str(folder)
    return {**model.architecture, "text_cfg": text}


def preprocess_of(model: DualEncoder) -> dict[str, Any]:
    """open_clip's keywords for the image settings, which a .pt cannot carry."""
    image = model.image
    return {
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "image_interpolation": image.interpolation,
        "image_resize_mode": image.resize_mode,
    }


def compare(weights: Path, config: Path, name: str, model: DualEncoder, samples: Samples) -> str:
    """Let plain open_clip embed the samples; what it came to, in words."""
    with tempfile.TemporaryDirectory() as folder:
        for number, encoded in enumerate(samples.images):
            (Path(folder) / f"{number}.image").write_bytes(encoded)
        pixels = ((samples.pixels.float() / 255 - model.pixel_mean) / model.pixel_std).numpy()
        np.savez(Path(folder) / "inputs.npz", pixels=pixels, tokens=samples.tokens.numpy())
        request = {"name": name, "config": str(config), "weights": str(weights), "texts": samples.texts}
        (Path(folder) / "request.json").write_text(json.dumps({**request, "preprocess": preprocess_of(model)}))
        done = subprocess.run([sys.executable, "-P", LOADER, folder], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                f"open_clip cannot load {weights}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
            )
        answers = dict(np.load(Path(folder) / "embeddings.npz", allow_pickle=False))
    expected = {"image": samples.image_embeddings.numpy(), "text": samples.text_embeddings.numpy()}
    difference = max(float(abs(answers[side] - expected[side]).max()) for side in expected)
    cosine = min(float((answers[f"raw_{side}"] * expected[side]).sum(1).min()) for side in expected)
    outcome = f"largest difference {difference:.1e}, from raw files cosine {cosine:.6f}"
    if not (difference <= MAX_DIFFERENCE and cosine >= MIN_COSINE):
        raise UserError(f"open_clip embeds {weights} differently ({outcome}); it was removed")
    return outcome


def snippet(weights: Path, config: Path, name: str, model: DualEncoder) -> str:
    """The lines of Python that load the export."""
    keywords = ", ".join(f"{key}={value!r}" for key, value in preprocess_of(model).items())
    return (
        f"  open_clip.add_model_config({str(config)!r})\n"
        "  model, _, preprocess = open_clip.create_model_and_transforms(\n"
        f"      {name!r}, pretrained={str(weights)!r}, {keywords})\n"
        f"  tokenizer = open_clip.get_tokenizer({name!r})"
    )
