"""gcl's pages: one HTML file each, which needs no network."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gcl.files import write_text


def write_page(path: Path, template: Path, **values: Any) -> None:
    """Write a template, which extends page.html beside this file, with its values."""
    # Autoescape is what keeps a product's title from becoming markup.
    templates = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, templates.get_template(template.name).render(values))
