"""A start from any open_clip architecture: a name, a Hub repository, a folder or a model config in a JSON file."""

import importlib.util
import logging
import os
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import huggingface_hub
import open_clip
import torch
import transformers
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from torch import nn

from gcl.errors import UserError
from gcl.models.dual_encoder import DualEncoder, ImageSettings, Tokenizer

PUBLISHED = ("hf-hub:", "local-dir:")  # names whose weights come with them
SIGLIP_IMAGE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize_mode": "squash"}


def build_open_clip(
    architecture: str,  # open_clip name, hf-hub:ORG/NAME, local-dir:FOLDER, or a model config FILE.json
    pretrained: str | None = None,  # open_clip tag, hf-hub:ORG/NAME, or a .pt or .safetensors file; null: random
    tokenizer: str | None = None,  # folder or Hub name of a Hugging Face tokenizer; null: the architecture's own
    siglip_image: bool = False,  # mean and std 0.5, squash, bicubic, whatever the weights say
    load_weights: bool = True,  # false: random weights of the right shape
    seed: int = 0,  # of random weights
) -> DualEncoder:
    """Build an open_clip model with its tokenizer and image settings.

    Raises:
        UserError: an unknown architecture or tag, or weights that cannot be had or do not fit.
    """
    name = register_architecture(architecture)
    if pretrained and pretrained.startswith("hf-hub:"):
        pretrained = hub_weights(pretrained)
    torch.manual_seed(seed)
    force = {"force_preprocess_cfg": SIGLIP_IMAGE} if siglip_image else {}
    try:
        network = quietly(
            open_clip.create_model,
            name,
            pretrained=pretrained if load_weights else None,
            load_weights=load_weights,
            require_pretrained=load_weights and (pretrained is not None or name.startswith(PUBLISHED)),
            pretrained_image=False,
            pretrained_text=False,
            nonscalar_logit_scale=True,
            **force,
        )
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError, UnpicklingError) as error:
        raise UserError(
            f"model {architecture!r} with pretrained={pretrained!r} cannot be built: {str(error).splitlines()[0]}"
        ) from error
    config = open_clip.get_model_config(name)
    return dual_encoder_from_open_clip(network, config, name, tokenizer)


def dual_encoder_from_open_clip(
    network: nn.Module, config: dict[str, Any], name: str, tokenizer: str | None
) -> DualEncoder:
    """Wrap an open_clip network, taking image settings from it and the tokenizer from its config."""
    preprocess = open_clip.get_model_preprocess_cfg(network)
    size = preprocess["size"]
    image = ImageSettings(
        size if isinstance(size, int) else size[0],
        tuple(preprocess["mean"]),
        tuple(preprocess["std"]),
        preprocess["interpolation"],
        preprocess["resize_mode"],
    )
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # processes and micro-batches must see the same model
    return DualEncoder(network, build_tokenizer(name, config["text_cfg"], tokenizer), image, config, name)


def build_tokenizer(name: str, text: dict[str, Any], tokenizer: str | None) -> Tokenizer:
    """open_clip's tokenizer for an architecture, or a Hugging Face one with the architecture's length and cleaning."""
    try:
        if tokenizer is None:
            return open_clip.get_tokenizer(name)
        return HFTokenizer(
            resolved(tokenizer), context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
        )
    except (OSError, ValueError) as error:
        source = tokenizer or text.get("hf_tokenizer_name", name)
        raise UserError(
            f"tokenizer {source!r} cannot be loaded ({str(error).splitlines()[0]}); "
            "name a folder that holds one with model.tokenizer=FOLDER"
        ) from error


def register_architecture(architecture: str) -> str:
    """The name under which open_clip knows `architecture`, after adding it where it is a JSON file.

    Raises:
        UserError: neither a name that open_clip knows, nor a file, nor a prefixed source.
    """
    if architecture.startswith(PUBLISHED):
        return architecture
    path = Path(resolved(architecture))
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"model config {path} is missing; give an open_clip model config as FILE.json")
        open_clip.add_model_config(path)
        return path.stem
    if architecture not in open_clip.list_models():
        close = get_close_matches(architecture, open_clip.list_models(), n=3)
        raise UserError(f"open_clip has no architecture {architecture!r}; nearest: {', '.join(close) or 'none'}")
    return architecture


def hub_weights(name: str) -> str:
    """The local file of a Hub repository's open_clip weights, downloaded when it is not yet in the cache."""
    try:
        return str(open_clip.download_pretrained_from_hf(name.removeprefix("hf-hub:")))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"weights of {name} cannot be had: {str(error).splitlines()[0]}") from error


def resolved(path: str) -> str:
    """A path as given, or inside an installed package where it is written as package:NAME/FILE.

    Raises:
        UserError: the package is not installed.
    """
    if not path.startswith("package:"):
        return os.path.expanduser(path)
    package, _, rest = path.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"{path} needs the Python package {package}; install it: pip install {package.replace('_', '-')}"
        )
    return str(Path(found.submodule_search_locations[0]) / rest)


def quietly(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call without the log lines and progress bars of open_clip and transformers: our error says what went wrong."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return function(*arguments, **keywords)
    finally:
        root.setLevel(level)
