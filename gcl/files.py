"""Files that are whole or not there: written under a temporary name, then renamed."""

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
