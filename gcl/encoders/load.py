"""What `checkpoint=` names where embeddings are made: a model of one's own, or other people's."""

from dataclasses import dataclass
from pathlib import Path

import open_clip

from gcl.encoders.encoder import Encoder
from gcl.encoders.open_clip_encoder import OpenClipEncoder
from gcl.encoders.sentence_transformers_encoder import KIND as SENTENCE_TRANSFORMERS
from gcl.encoders.sentence_transformers_encoder import load_sentence_transformers
from gcl.encoders.transformers_encoder import KIND as TRANSFORMERS
from gcl.encoders.transformers_encoder import load_transformers
from gcl.errors import UserError
from gcl.models.open_clip_start import PUBLISHED
from gcl.parts import Settings, nearest
from gcl.training.checkpoint import COMPLETE
from gcl.training.load import load_model

OPEN_CLIP = "local-dir:"
FORMS = (
    "a run, a checkpoint folder, a .pt or .safetensors file, OPEN_CLIP_NAME/TAG (ViT-B-16-SigLIP/webli), "
    "hf-hub:ORG/NAME, local-dir:FOLDER, transformers:NAME_OR_FOLDER or sentence-transformers:NAME_OR_FOLDER"
)


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, and the settings of the run that it comes from, where it comes from one."""

    encoder: Encoder
    settings: Settings | None = None


def load_encoder(checkpoint: str, model: Settings | None, trust_remote_code: bool = False) -> LoadedEncoder:
    """Load what `checkpoint` names, on the CPU.

    Args:
        checkpoint: what load_model takes, transformers:NAME_OR_FOLDER, sentence-transformers:NAME_OR_FOLDER, or a
            folder that open_clip, sentence-transformers or transformers wrote.
        model: the part that builds the architecture of a file of weights.
        trust_remote_code: allow code that comes with a transformers or sentence-transformers model to run.

    Raises:
        UserError: nothing of the kind is there, or it cannot be loaded.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        checkpoint = named_by_its_files(path)
    if checkpoint.startswith(TRANSFORMERS):
        return LoadedEncoder(load_transformers(checkpoint.removeprefix(TRANSFORMERS), trust_remote_code))
    if checkpoint.startswith(SENTENCE_TRANSFORMERS):
        name = checkpoint.removeprefix(SENTENCE_TRANSFORMERS)
        return LoadedEncoder(load_sentence_transformers(name, trust_remote_code))
    if not path.is_dir() and path.suffix not in (".pt", ".safetensors") and not checkpoint.startswith(PUBLISHED):
        check_open_clip_name(checkpoint)
    loaded = load_model(checkpoint, model)
    return LoadedEncoder(OpenClipEncoder(loaded.model, loaded.name), loaded.settings)


def named_by_its_files(folder: Path) -> str:
    """`checkpoint=` for a folder: with the prefix of the software that wrote it; a run and its checkpoints as they are.

    Raises:
        UserError: it was written by none of them.
    """
    if (folder / "config.yaml").is_file() or (folder / COMPLETE).is_file():
        return str(folder)
    for file, prefix in (
        ("open_clip_config.json", OPEN_CLIP),
        ("modules.json", SENTENCE_TRANSFORMERS),
        ("config.json", TRANSFORMERS),
    ):
        if (folder / file).is_file():
            return f"{prefix}{folder}"
    raise UserError(
        f"{folder} is no run and no complete checkpoint (which holds a file named {COMPLETE}), and holds no model of "
        "open_clip (open_clip_config.json), sentence-transformers (modules.json) or transformers (config.json)"
    )


def check_open_clip_name(checkpoint: str) -> None:
    """Refuse what is neither a file nor an architecture with its tag, before anything is downloaded."""
    architecture, _, tag = checkpoint.partition("/")
    if not tag or architecture not in open_clip.list_models():
        close = nearest(architecture, open_clip.list_models())
        raise UserError(f"checkpoint {checkpoint!r} is not known{close}; give {FORMS}")
