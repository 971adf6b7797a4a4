"""Digests of what embeddings depend on: weights, settings, tokenizers and how a picture becomes a tensor.

None of them depends on where a model lies or what it is called.
"""

import hashlib
import inspect
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

CHUNK = 1 << 22  # values hashed at once, so that weights on a GPU never lie in memory a second time
# What a setting says of a model's origin, and not of what it does.
ORIGIN = {
    "architectures",
    "auto_map",
    "dtype",
    "hf_model_name",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "processor_class",
    "timm_model_pretrained",
    "transformers_version",
}
PROBE_TEXTS = ["", "Red MUG, 12 oz", "  l'été &amp; <b>größer</b>\n杯子 🎁 don't", "handmade wooden " * 200]


def digest(value: Any) -> str:
    """sha256 of a value of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Of all weights and buffers: names, types, shapes and bytes."""
    state = model.state_dict()
    names = sorted(state)
    with ThreadPoolExecutor() as threads:  # hashing leaves the interpreter free: the speed is that of all cores
        digests = list(threads.map(lambda name: tensor_digest(state[name]), names))
    return digest(
        [(name, str(state[name].dtype), list(state[name].shape), d) for name, d in zip(names, digests, strict=True)]
    )


def tensor_digest(tensor: Tensor) -> str:
    """sha256 of the bytes."""
    assert tensor.numel(), "an identity is taken of whole weights, before they are spread over processes"
    found = hashlib.sha256()
    for part in tensor.detach().reshape(-1).split(CHUNK):
        found.update(part.cpu().view(torch.uint8).numpy())
    return found.hexdigest()


def without_origin(settings: Any) -> Any:
    """Settings of JSON without what says where they come from, at any depth."""
    if isinstance(settings, list):
        return [without_origin(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        name: without_origin(value)
        for name, value in settings.items()
        if not name.startswith("_") and name not in ORIGIN
    }


def config_rules(config: PreTrainedConfig) -> Any:
    """What a transformers config says of a model."""
    return without_origin(json.loads(config.to_json_string(use_diff=False)))


def tokenizer_digest(tokenizer: Any, tokenize: Callable[[list[str]], Tensor]) -> str:
    """Of a tokenizer's rules, where it can tell them, and of what it makes of a few texts.

    Args:
        tokenizer: of transformers, tokenizers or open_clip.
        tokenize: as the model is fed, padded to its full length: it shows cleaning, padding and lengths.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.is_fast:
        tokenizer = tokenizer.backend_tokenizer
    rules: Any = type(tokenizer).__name__
    if isinstance(tokenizer, Tokenizer):
        rules = {**json.loads(tokenizer.to_str()), "truncation": None, "padding": None}  # they are of the last call
    return digest([rules, tokenize(PROBE_TEXTS).tolist()])


def remote_code(model: nn.Module) -> list[str]:
    """The source of code that came with the weights."""
    kinds = {type(part) for part in model.modules()}
    files = {inspect.getfile(kind) for kind in kinds if kind.__module__.startswith("transformers_modules.")}
    return sorted(Path(file).read_text() for file in files)


def probe_picture() -> bytes:
    """A synthetic picture as PNG, wider than high, with edges, gradients and noise."""
    rows, columns = np.mgrid[0:301, 0:403]
    noise = np.random.RandomState(0).randint(0, 64, rows.shape)  # the same numbers in every version of NumPy
    pixels = np.stack([rows * 191 // 301 + noise, (rows // 9 + columns // 7) % 2 * 255, columns * 255 // 403], -1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
