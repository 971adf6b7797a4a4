"""A start joined from two towers that never met: a timm image tower, a Hugging Face text tower, two new linear heads.

The result is an ordinary open_clip model config, so what is trained from it loads in plain open_clip.
"""

import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from open_clip.factory import load_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from gcl.errors import UserError
from gcl.models.dual_encoder import DualEncoder
from gcl.models.open_clip_start import dual_encoder_from_open_clip, quietly, resolved

NAME = "gcl-joined"
IMAGE_HEADS = ("classifier.", "fc.", "head.fc.", "_fc.")  # where ImageNet classifiers keep their last layer


def build_joined(
    image_tower: str,  # timm architecture, such as tf_efficientnet_lite0
    text_tower: str,  # folder or Hub name of a Hugging Face encoder with its tokenizer; package:NAME/FOLDER
    image_weights: str | None = None,  # file of weights, or package:NAME/FILE; null: timm's own, from the Hub
    embed_dim: int = 384,  # size of the common embedding
    image_size: int = 128,  # pixels, square
    context_length: int = 32,  # tokens
    init_logit_scale: float = 10.0,  # the factor itself
    init_logit_bias: float = -10.0,  # where most pairs are negatives, near -log(batch size) or below
    load_weights: bool = True,  # false: random weights of the right shape
    seed: int = 0,  # of the two heads
) -> DualEncoder:
    """Build the two towers, load their weights, and put a linear head without bias on each.

    Raises:
        UserError: a tower that is not known, or weights that cannot be read or do not fit it.
    """
    config = {
        "embed_dim": embed_dim,
        "init_logit_scale": math.log(init_logit_scale),
        "init_logit_bias": init_logit_bias,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": image_tower,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": image_size,
        },
        "text_cfg": {
            "hf_model_name": resolved(text_tower),
            "hf_tokenizer_name": resolved(text_tower),
            "hf_model_pretrained": False,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            "context_length": context_length,
        },
    }
    torch.manual_seed(seed)
    network = build_network(
        config, load_text_weights=load_weights, load_image_weights=load_weights and image_weights is None
    )
    if load_weights and image_weights is not None:
        load_image_tower(network.visual.trunk, resolved(image_weights))
    preprocess = {
        "size": image_size,
        "mean": network.visual.trunk.default_cfg["mean"],
        "std": network.visual.trunk.default_cfg["std"],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    open_clip.model.set_model_preprocess_cfg(network, preprocess)
    return dual_encoder_from_open_clip(network, config, NAME, tokenizer=text_tower)


def build_network(config: dict[str, Any], load_text_weights: bool, load_image_weights: bool) -> Any:
    """open_clip's model for `config`, its towers with their own pretrained weights where asked."""
    vision = config["vision_cfg"] | {"timm_model_pretrained": load_image_weights}
    text = config["text_cfg"] | {"hf_model_pretrained": load_text_weights}
    try:
        return quietly(
            open_clip.CustomTextCLIP,
            config["embed_dim"],
            vision,
            text,
            init_logit_scale=config["init_logit_scale"],
            init_logit_bias=config["init_logit_bias"],
            nonscalar_logit_scale=True,
        )
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"towers {vision['timm_model_name']!r} and {text['hf_model_name']!r} cannot be joined: "
            f"{str(error).splitlines()[0]}"
        ) from error


def load_image_tower(trunk: nn.Module, path: str) -> None:
    """Load a timm tower's weights: by name, or by position where a file holds the same tensors under other names.

    Raises:
        UserError: the file is missing or unreadable, or its tensors are not the tower's.
    """
    if not Path(path).is_file():
        raise UserError(f"image tower weights {path} are missing; give a file with model.image_weights=FILE")
    try:
        state = load_state_dict(path, weights_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        raise UserError(f"image tower weights {path} cannot be read: {str(error).splitlines()[0]}") from error
    state = {name: tensor for name, tensor in state.items() if not name.startswith(IMAGE_HEADS)}
    own = trunk.state_dict()
    if set(state) != set(own):
        state = matched_by_position(state, own, path)
    trunk.load_state_dict(state)


def matched_by_position(state: dict[str, Tensor], own: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """`state` under the names of `own`, when both list the same shapes in the same order."""
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in own.values()]:
        raise UserError(
            f"{path} holds {len(state)} tensors that do not fit the image tower's {len(own)}; "
            "choose the architecture they were trained with (model.image_tower)"
        )
    return dict(zip(own, state.values(), strict=True))
