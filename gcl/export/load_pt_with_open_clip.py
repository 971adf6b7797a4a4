"""Loads an exported .pt with open_clip alone and embeds samples: what `gcl export` runs in a fresh process."""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    inputs = np.load(folder / "inputs.npz", allow_pickle=False)
    open_clip.add_model_config(request["config"])
    model, _, preprocess = open_clip.create_model_and_transforms(
        request["name"], pretrained=request["weights"], weights_only=True, **request["preprocess"]
    )
    tokenizer = open_clip.get_tokenizer(request["name"])
    images = [Image.open(folder / f"{number}.image", formats=FORMATS) for number in range(len(inputs["pixels"]))]
    model.eval()
    with torch.inference_mode():
        np.savez(
            folder / "embeddings.npz",
            image=model.encode_image(torch.from_numpy(inputs["pixels"]), normalize=True).numpy(),
            text=model.encode_text(torch.from_numpy(inputs["tokens"]), normalize=True).numpy(),
            raw_image=model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True).numpy(),
            raw_text=model.encode_text(tokenizer(request["texts"]), normalize=True).numpy(),
        )


main(Path(sys.argv[1]))
