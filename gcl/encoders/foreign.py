"""Loads other people's models: quietly, and whatever is wrong with their files becomes one line."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub.errors import RepositoryNotFoundError

from gcl.errors import UserError
from gcl.models.open_clip_start import quietly

Encoding = TypeVar("Encoding")


def load_foreign(prefix: str, name: str, load: Callable[[str, str], Encoding]) -> Encoding:
    """Load a model by its Hub name or from a folder.

    Args:
        prefix: what stands before `name` in `checkpoint=`.
        load: (the Hub name or the folder's path, what to call the model in tables) -> the encoder.

    Raises:
        UserError: it cannot be loaded.
    """
    folder = Path(name).expanduser()
    try:
        names = (str(folder), folder.resolve().name) if folder.is_dir() else (name, name)
        encoder: Encoding = quietly(load, *names)
    except UserError:
        raise
    except RepositoryNotFoundError as error:
        raise UserError(f"{prefix}{name} is neither a folder nor a model on the Hub that you may read") from error
    except ImportError as error:  # SigLIP's own tokenizer needs sentencepiece
        raise UserError(
            f"{prefix}{name} needs a Python package that is not installed, install it with pip: {first_line(error)}"
        ) from error
    except Exception as error:  # files of any origin, and code that came with them, raise anything
        raise UserError(f"{prefix}{name} cannot be loaded: {first_line(error)}") from error
    return encoder


def first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
