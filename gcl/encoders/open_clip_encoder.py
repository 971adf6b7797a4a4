"""Any open_clip start, and what is trained from it, as an encoder."""

from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn

from gcl.data.images import ImageReader
from gcl.encoders.encoder import ReadImage, check_context_length
from gcl.encoders.identity import PROBE_TEXTS, config_rules, digest, tokenizer_digest, weights_digest, without_origin
from gcl.models.dual_encoder import DualEncoder

FIELD = "field"  # what a batch of one field calls it
INITIAL = ("init_logit_scale", "init_logit_bias")  # what the weights replace


class OpenClipEncoder:
    """A dual encoder of one's own.

    Args:
        model: with its tokenizer and image settings.
        name: what to call it in tables.
        forward: what is called in the model's stead: the model as accelerate wrapped it.
    """

    def __init__(self, model: DualEncoder, name: str, forward: nn.Module | None = None) -> None:
        self.model, self.name = model, name
        self.forward = model if forward is None else forward

    @property
    def dimensions(self) -> int:
        return self.model.dimensions

    @property
    def logit_scale(self) -> float:
        """The factor itself, not its logarithm."""
        return float(self.model.network.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float | None:
        """None: it was trained with a softmax, which has none."""
        return float(self.model.network.logit_bias.detach()) if self.model.has_logit_bias else None

    @cached_property
    def read_image(self) -> ReadImage:
        image = self.model.image
        return ImageReader(image.size, image.interpolation, image.resize_mode).read

    def encode_images(self, images: Tensor) -> Tensor:
        return self._encode({FIELD: images}, {})

    def encode_texts(self, texts: list[str], context_length: int | None = None) -> Tensor:
        tokens = self._tokens(texts, context_length)
        return self._encode({}, {FIELD: tokens.to(self.model.pixel_mean.device)})

    def _tokens(self, texts: list[str], context_length: int | None) -> Tensor:
        """(texts, the model's context) ids: open_clip's text towers take no fewer columns."""
        tokenizer: Any = self.model.tokenizer
        check_context_length(context_length, tokenizer.context_length)
        tokens: Tensor = tokenizer(texts, context_length=context_length)
        if context_length is None:
            return tokens
        padding = tokenizer([""])[:, context_length:]  # what an empty text ends with
        return torch.cat([tokens, padding.expand(len(texts), -1)], 1)

    @torch.inference_mode()
    def _encode(self, images: dict[str, Tensor], texts: dict[str, Tensor]) -> Tensor:
        if self.forward.training:  # a run measures between two steps
            self.forward.eval()
        embedded: Tensor = self.forward(images, texts).fields[FIELD]
        return embedded.float()

    def identity(self) -> dict[str, str]:
        return {
            "weights": weights_digest(self.model.network),
            "architecture": digest(self._architecture()),
            "images": digest(asdict(self.model.image)),
            "tokenizer": self._tokenizer_digest(),
        }

    def _architecture(self) -> list[object]:
        config = {name: value for name, value in self.model.architecture.items() if name not in INITIAL}
        towers = [part.config for part in self.model.network.modules() if isinstance(part, HFTextEncoder)]
        return [without_origin(config), *(config_rules(tower) for tower in towers)]

    def _tokenizer_digest(self) -> str:
        tokenizer = self.model.tokenizer
        if isinstance(tokenizer, HFTokenizer):
            return tokenizer_digest(tokenizer.tokenizer, tokenizer)
        return digest([type(tokenizer).__name__, tokenizer(PROBE_TEXTS).tolist()])

    def to(self, device: torch.device) -> "OpenClipEncoder":
        self.model.to(device)
        return self
