"""sentence-transformers models as encoders: CLIP-style ones read images too, others only texts."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import ProcessorMixin

from gcl.encoders.encoder import ReadImage, check_context_length
from gcl.encoders.foreign import load_foreign
from gcl.encoders.identity import config_rules, digest, remote_code, tokenizer_digest, weights_digest
from gcl.encoders.processed_image import ProcessedImageReader
from gcl.errors import UserError

KIND = "sentence-transformers:"


def load_sentence_transformers(name: str, trust_remote_code: bool) -> "SentenceTransformersEncoder":
    """Load a model by its Hub name or from a folder.

    Args:
        trust_remote_code: allow the code that comes with a model to run.

    Raises:
        UserError: sentence-transformers is missing, or the model cannot be had or needs code that is not allowed.
    """
    try:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"{KIND}{name} needs sentence-transformers; pip install sentence-transformers") from error

    def load(source: str, shown: str) -> SentenceTransformersEncoder:
        model = SentenceTransformer(
            source, device="cpu", trust_remote_code=trust_remote_code, model_kwargs={"dtype": torch.float32}
        )
        return SentenceTransformersEncoder(model, shown)

    return load_foreign(KIND, name, load)


class SentenceTransformersEncoder:
    """A sentence-transformers model.

    Args:
        model: a SentenceTransformer in float32.
        name: what to call it in tables.
    """

    def __init__(self, model: Any, name: str) -> None:
        from sentence_transformers.sentence_transformer.modules import Transformer  # noqa: PLC0415

        self.model, self.name = model.eval(), name
        self.transformer = model[0] if isinstance(model[0], Transformer) else None
        self.images = None if self.transformer is None else image_reader(self.transformer)
        self.dimensions = self.encode_texts([""]).shape[1]

    @property
    def read_image(self) -> ReadImage:
        if self.images is None:
            raise UserError(f"{KIND}{self.name} reads texts only; search with text fields, or with a CLIP-style model")
        return self.images.read

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.model({"pixel_values": images, "modality": "image"})["sentence_embedding"]
        return normalized(embedded[:, : self.model.truncate_dim])

    def encode_texts(self, texts: list[str], context_length: int | None = None) -> Tensor:
        options: dict[str, Any] = {}
        if context_length is not None:
            if self.transformer is None:
                raise UserError(f"context_length={context_length}: {KIND}{self.name} reads texts whole; leave it out")
            check_context_length(context_length, self.model.max_seq_length)
            options = {"processing_kwargs": {"text": {"max_length": context_length}}}
        return normalized(
            self.model.encode(texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False, **options)
        )

    def identity(self) -> dict[str, str]:
        model = self.model
        config = None if self.transformer is None else config_rules(model.config)
        settings = [str(model), model.prompts, model.default_prompt_name, model.truncate_dim, model.max_seq_length]
        return {
            "weights": weights_digest(model),
            "architecture": digest([settings, config, remote_code(model)]),
            "images": "none" if self.images is None else self.images.digest(),
            "tokenizer": tokenizer_digest(model.tokenizer, lambda texts: model.preprocess(texts)["input_ids"]),
        }

    def to(self, device: torch.device) -> "SentenceTransformersEncoder":
        self.model.to(device)
        return self


def image_reader(transformer: Any) -> ProcessedImageReader | None:
    """How a first module reads an image by itself; None: it reads texts only."""
    has_both = isinstance(transformer.processor, ProcessorMixin) and "image" in transformer.modality_config
    return ProcessedImageReader(transformer.processor.image_processor) if has_both else None


def normalized(embedded: Tensor) -> Tensor:
    return functional.normalize(embedded.float(), dim=-1)
