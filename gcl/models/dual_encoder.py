"""An image tower and a text tower with one embedding space: fields of a batch in, normalised embeddings out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from open_clip import CustomTextCLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn
from torch.nn import functional

from gcl.errors import UserError

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Tokenizer = Callable[[list[str]], Tensor]  # texts -> (texts, context_length) int64


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes the image tower's input, in open_clip's terms."""

    size: int  # pixels, square
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bicubic" or "bilinear"
    resize_mode: str  # "squash" to the square, or "shortest" side and centre crop


class Embeddings(NamedTuple):
    """What a dual encoder returns for a batch."""

    fields: dict[str, Tensor]  # field -> (rows, dim) float32, L2-normalised
    logit_scale: Tensor  # (1,) the factor itself, not its logarithm
    logit_bias: Tensor  # (1,) 0 where the start has none


class DualEncoder(nn.Module):
    """An open_clip model together with all that feeding it needs.

    Args:
        network: an open_clip model with encode_image, encode_text, logit_scale and, for a sigmoid start, logit_bias.
        tokenizer: open_clip's tokenizer for it.
        image: how its images are prepared.
        architecture: open_clip's model config, as its JSON files hold it.
        name: open_clip's name of the architecture.
    """

    def __init__(
        self, network: nn.Module, tokenizer: Tokenizer, image: ImageSettings, architecture: dict[str, Any], name: str
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.tokenizer, self.image, self.architecture, self.name = tokenizer, image, architecture, name
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.masks_padding = isinstance(network, CustomTextCLIP) and isinstance(network.text, HFTextEncoder)
        self.register_buffer("pixel_mean", torch.tensor(image.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(image.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: dict[str, Tensor], texts: dict[str, Tensor]) -> Embeddings:
        """Encode every field once.

        Args:
            images: field -> (rows, 3, size, size) uint8.
            texts: field -> (rows, context_length) int64 token ids.
        """
        fields = {
            name: self._normalized(self.network.encode_image(self._pixels(image))) for name, image in images.items()
        }
        fields |= {
            name: self._normalized(self.network.encode_text(self._tokens(tokens))) for name, tokens in texts.items()
        }
        # Times 1: a parameter returned as it is would not pass through DDP's gradient hooks.
        scale = at_least_float32(self.network.logit_scale).exp().reshape(1)
        bias = self.network.logit_bias
        return Embeddings(
            fields, scale, torch.zeros_like(scale) if bias is None else at_least_float32(bias).reshape(1) * 1
        )

    @property
    def dimensions(self) -> int:
        """Of the embeddings."""
        return int(self.architecture["embed_dim"])

    @property
    def has_logit_bias(self) -> bool:
        return self.network.logit_bias is not None

    def add_logit_bias(self, value: float) -> None:
        """Give a start without a logit bias one, so that plain open_clip loads it too."""
        self.network.logit_bias = nn.Parameter(torch.full_like(self.network.logit_scale, value))
        self.architecture["init_logit_bias"] = value

    def check_max_logit_scale(self, ceiling: float | None) -> None:
        """Refuse a ceiling below the start's own logit scale."""
        scale = float(self.network.logit_scale.detach().exp())
        if ceiling is not None and ceiling < scale:
            raise UserError(
                f"train.max_logit_scale={ceiling} is below the {scale:.6g} that {self.name} starts with, and would "
                f"change the start; give {math.ceil(scale)} or more, or leave it out"
            )

    def freeze_unused(self, uses_images: bool, uses_texts: bool) -> None:
        """Freeze the tower that no field of the objective needs: it gets no gradient, which DDP would wait for."""
        for name, parameter in self.network.named_parameters():
            is_image_tower = name.startswith("visual.")
            if not name.startswith("logit_") and not (uses_images if is_image_tower else uses_texts):
                parameter.requires_grad_(False)

    def checkpoint_activations(self) -> None:
        """Let both towers keep less for the backward pass, and compute it again."""
        self.network.set_grad_checkpointing(True)

    def save_tokenizer(self, folder: Path) -> None:
        """Write a Hugging Face tokenizer's files; open_clip's own needs none."""
        if isinstance(self.tokenizer, HFTokenizer):
            temporary = folder.with_name(folder.name + ".tmp")
            self.tokenizer.save_pretrained(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            for file in temporary.iterdir():
                file.rename(folder / file.name)
            temporary.rmdir()

    def train(self, mode: bool = True) -> "DualEncoder":
        """Training mode, with batch norm's statistics kept: processes and micro-batches must see the same model."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, BATCH_NORM):
                module.eval()
        return self

    def _pixels(self, image: Tensor) -> Tensor:
        pixels = (image.float() / 255 - self.pixel_mean) / self.pixel_std
        return pixels.contiguous(memory_format=torch.channels_last)  # convolutions are twice as fast on a CPU

    def _tokens(self, tokens: Tensor) -> Tensor:
        """Without the columns that are padding in every row, for a tower that masks padding out."""
        if not self.masks_padding:
            return tokens
        used: Tensor = (tokens != self.network.text.config.pad_token_id).any(0).nonzero()
        return tokens[:, : int(used.max()) + 1]

    def _normalized(self, features: Tensor) -> Tensor:
        return functional.normalize(at_least_float32(features), dim=-1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 where it was less; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
