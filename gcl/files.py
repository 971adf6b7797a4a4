"""Files that are whole or not there: written under a temporary name, then renamed."""

import hashlib
import os
from pathlib import Path

from gcl.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path, setting: str) -> None:
    """Make a folder where there is none.

    Raises:
        UserError: it cannot be made, naming the setting.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{setting} {path} cannot be made ({error.strerror}); choose another") from error


def check_new_folder(output: Path) -> None:
    """Refuse a folder that holds something, or cannot be made; before the work whose results it is for.

    Raises:
        UserError: naming the remedy.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"output_dir {output} is a file; choose another")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"output_dir {output} is not empty; choose another, or remove it first")
    if output.is_mount():
        raise UserError(f"output_dir {output} is a mount point, which cannot be replaced; give a folder in it")
    parent = next(folder for folder in output.parents if folder.exists())
    if not os.access(parent, os.W_OK):
        raise UserError(f"output_dir {output} cannot be made: {parent} may not be written; choose another")
