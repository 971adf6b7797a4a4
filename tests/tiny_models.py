"""Random models of two layers, saved as transformers and sentence-transformers save them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

IMAGE_SIZE, CONTEXT_LENGTH = 32, 16
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": IMAGE_SIZE, "patch_size": 8}
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
JINA_FILES = {
    "configuration_clip.py": """
from transformers import PreTrainedConfig

class JinaCLIPConfig(PreTrainedConfig):
    model_type = "jina_clip"
    vocab_size: int = 300
    projection_dim: int = 8
""",
    "modeling_clip.py": """
import torch
from torch import nn
from transformers import PreTrainedModel
from .configuration_clip import JinaCLIPConfig

class JinaCLIPModel(PreTrainedModel):
    config_class = JinaCLIPConfig

    def __init__(self, config):
        super().__init__(config)
        self.text_model = nn.Embedding(config.vocab_size, config.projection_dim)
        self.vision_model = nn.Linear(3, config.projection_dim)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.post_init()

    def get_text_features(self, input_ids=None, *_, **__):
        used = (input_ids != 0).unsqueeze(-1)
        return (self.text_model(input_ids) * used).sum(1) + 0.01

    def get_image_features(self, pixel_values=None, *_, **__):
        return self.vision_model(pixel_values.mean((2, 3)))
""",
}


def save_siglip(folder: Path) -> Path:
    """SigLIP with a byte tokenizer that ends a text and pads it."""
    torch.manual_seed(1)
    text = {**TOWER, "vocab_size": 300, "max_position_embeddings": CONTEXT_LENGTH}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    SiglipModel(SiglipConfig(text_config={**text, **ids}, vision_config=VISION)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)
    return folder


def save_siglip2(folder: Path) -> Path:
    """SigLIP 2 of a fixed resolution, as it lies on the Hub: SigLIP with Gemma's tokenizer."""
    save_siglip(folder)
    (folder / "tokenizer.json").unlink()
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    return save_tokenizer(
        GemmaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], padding_side="right"),
        folder,
    )


def save_clip(folder: Path) -> Path:
    """CLIP with its own tokenizer, without merges."""
    torch.manual_seed(2)
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": CONTEXT_LENGTH, **ids}
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)).save_pretrained(folder)
    save_tokenizer(CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[]), folder)
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=square).save_pretrained(folder)
    return folder


def save_sentence_transformers(folder: Path, clip: Path) -> Path:
    SentenceTransformer(modules=[Transformer(str(clip))], device="cpu").save(str(folder))
    return folder


def save_sentence_transformers_of_text(folder: Path, clip: Path) -> Path:
    """CLIP's text tower alone."""
    tower = folder.with_name(folder.name + "-tower")
    CLIPModel.from_pretrained(clip).text_model.save_pretrained(tower)
    shutil.copy(clip / "tokenizer.json", tower)
    shutil.copy(clip / "tokenizer_config.json", tower)
    SentenceTransformer(modules=[Transformer(str(tower)), Pooling(TOWER["hidden_size"])], device="cpu").save(
        str(folder)
    )
    return folder


def save_jina_clip(folder: Path) -> Path:
    """A model that says it is Jina-CLIP and brings its code with it, such as it is."""
    folder.mkdir()
    for name, source in JINA_FILES.items():
        (folder / name).write_text(source)
    code = {"AutoConfig": "configuration_clip.JinaCLIPConfig", "AutoModel": "modeling_clip.JinaCLIPModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "jina_clip", "auto_map": code}))
    torch.manual_seed(3)
    shapes = {
        "text_model.weight": (300, 8),
        "vision_model.weight": (8, 3),
        "vision_model.bias": (8,),
        "logit_scale": (),
    }
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    byte_tokenizer().save_pretrained(folder)
    SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *LETTERS]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.save_pretrained(folder)
    return folder
