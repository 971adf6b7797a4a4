"""SigLIP, SigLIP 2, CLIP and Jina-CLIP as transformers loads them, as encoders.

SigLIP was trained on texts padded to their full length, without a mask; SigLIP 2 besides on lower case, to which its
tokenizer on the Hub does not bring them. CLIP and Jina-CLIP read a text's end, wherever it stands.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, GemmaTokenizer, PreTrainedConfig

from gcl.encoders.encoder import ReadImage, check_context_length
from gcl.encoders.foreign import load_foreign
from gcl.encoders.identity import config_rules, digest, remote_code, tokenizer_digest, weights_digest
from gcl.encoders.processed_image import ProcessedImageReader
from gcl.errors import UserError

KIND = "transformers:"


@dataclass(frozen=True)
class TextInput:
    """How a kind of model is fed texts."""

    padding: str  # "max_length", or "longest" of the batch
    names: tuple[str, ...]  # of what the tokenizer makes, which the model takes
    longest: int | None = None  # tokens; None: as its config says


TEXT_INPUTS = {
    "siglip": TextInput("max_length", ("input_ids",)),
    "clip": TextInput("longest", ("input_ids", "attention_mask")),
    "jina_clip": TextInput("longest", ("input_ids",), 512),  # which its own encode_text reads; it finds padding itself
}
WITH_CODE = ("jina_clip",)  # not in transformers: the code comes with the weights
NAFLEX = "siglip2"  # fixed resolutions of SigLIP 2 are "siglip"


def load_transformers(name: str, trust_remote_code: bool) -> "TransformersEncoder":
    """Load a model by its Hub name or from a folder.

    Args:
        trust_remote_code: allow the code that comes with a model to run.

    Raises:
        UserError: it cannot be had, is of another kind, does not hold all weights, or needs code that is not allowed.
    """

    def load(source: str, shown: str) -> TransformersEncoder:
        kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        check_kind(name, kind, trust_remote_code)
        code = {"trust_remote_code": kind in WITH_CODE}
        tokenizer = AutoTokenizer.from_pretrained(source, **code)
        processor = AutoImageProcessor.from_pretrained(source, **code)
        model, report = AutoModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **code)
        check_complete(name, report["missing_keys"])
        return TransformersEncoder(model, tokenizer, processor, shown)

    return load_foreign(KIND, name, load)


def check_kind(name: str, kind: str | None, trust_remote_code: bool) -> None:
    """Refuse what cannot be encoded, before any weight is loaded."""
    if kind == NAFLEX:
        raise UserError(
            f"{KIND}{name} is a SigLIP 2 for pictures of any size (NaFlex); take one of a fixed size, such as "
            "google/siglip2-base-patch16-224"
        )
    if kind not in TEXT_INPUTS:
        raise UserError(
            f"{KIND}{name} is of the kind {kind!r}; {', '.join(TEXT_INPUTS)} can be read, and other kinds with "
            "sentence-transformers:NAME or an open_clip name"
        )
    if kind in WITH_CODE and not trust_remote_code:
        raise UserError(f"{KIND}{name} runs Python code that comes with it; read it, then give trust_remote_code=true")


def check_complete(name: str, missing: set[str]) -> None:
    """Refuse weights that leave some of the model random."""
    if missing:
        raise UserError(
            f"{KIND}{name} lacks {len(missing)} of the model's weights, such as {min(missing)}; if open_clip wrote it, "
            "read it as hf-hub:NAME or local-dir:FOLDER"
        )


class TransformersEncoder:
    """A transformers model with `get_image_features` and `get_text_features`.

    Args:
        model: in float32.
        tokenizer: its own.
        processor: its image processor.
        name: what to call it in tables.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.text_input = TEXT_INPUTS[model.config.model_type]
        self.context_length = self.text_input.longest or model.config.text_config.max_position_embeddings
        self.images = ProcessedImageReader(processor)
        self.dimensions = self.encode_texts([""]).shape[1]

    @property
    def logit_scale(self) -> float:
        """The factor itself, not its logarithm."""
        return float(self.model.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float | None:
        """None: it was trained with a softmax, which has none."""
        return float(self.model.logit_bias.detach()) if self.model.config.model_type == "siglip" else None

    @property
    def read_image(self) -> ReadImage:
        return self.images.read

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        return normalized(self.model.get_image_features(pixel_values=images))

    @torch.inference_mode()
    def encode_texts(self, texts: list[str], context_length: int | None = None) -> Tensor:
        check_context_length(context_length, self.context_length)
        tokens = self._tokenize(texts, context_length or self.context_length)
        inputs = {name: tokens[name].to(self.model.device) for name in self.text_input.names}
        return normalized(self.model.get_text_features(**inputs))

    def _tokenize(self, texts: list[str], context_length: int) -> dict[str, Tensor]:
        if isinstance(self.tokenizer, GemmaTokenizer):
            texts = [text.lower() for text in texts]
        rows = self.tokenizer(texts, truncation=True, max_length=context_length, return_attention_mask=True)
        tokens: dict[str, Tensor] = self.tokenizer.pad(
            rows, padding=self.text_input.padding, max_length=self.context_length, return_tensors="pt"
        )
        return tokens

    def identity(self) -> dict[str, str]:
        return {
            "weights": weights_digest(self.model),
            "architecture": digest([config_rules(self.model.config), remote_code(self.model)]),
            "images": self.images.digest(),
            "tokenizer": tokenizer_digest(
                self.tokenizer, lambda texts: self._tokenize(texts, self.context_length)["input_ids"]
            ),
        }

    def to(self, device: torch.device) -> "TransformersEncoder":
        self.model.to(device)
        return self


def normalized(features: Any) -> Tensor:
    """Of a tensor, or of the pooled output that transformers wraps it in."""
    pooled = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(pooled.float(), dim=-1)
