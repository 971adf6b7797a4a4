"""`gcl compare`: models beside each other, by task, with gains over a baseline and what Marqo published.

gcl compare runs/mine measured/siglip_b measured/marqo_l output_dir=compared
"""

from dataclasses import dataclass, field
from pathlib import Path

from gcl.compare.comparison import compare
from gcl.compare.markdown import markdown_from_comparison
from gcl.compare.page import write_comparison_page
from gcl.compare.side_by_side import write_side_by_side
from gcl.compare.terminal import print_comparison
from gcl.compare.tidy import csv_from_comparison
from gcl.config import load_settings
from gcl.errors import UserError
from gcl.files import write_text
from gcl.parts import build_as

CONFIG_DIR = "--config-dir"


@dataclass
class CompareSettings:
    """Set models beside each other: gcl compare RUN_A RUN_B ... [key=value ...]."""

    runs: list[str] = field(default_factory=list)  # folders of results, of a run, or of such folders; or as plain words
    baseline: str | None = None  # a model's name, or its number from 1: what gains are over; null: the first
    published: bool | None = None  # Marqo's published rows; null: of the tasks and regimes that were measured
    output_dir: str | None = None  # folder for compare.html, .md and .csv, and pages with pictures; null: only printed


def main(arguments: list[str]) -> None:
    folders, rest = split_folders(arguments)
    chosen = load_settings("compare", CompareSettings, rest)
    settings: CompareSettings = build_as(CompareSettings, {**chosen, "runs": [*folders, *chosen["runs"]]})
    output = Path(settings.output_dir).expanduser() if settings.output_dir else None
    if output and output.exists() and not output.is_dir():
        raise UserError(f"output_dir {output} is a file; choose another")
    comparison = compare([Path(run).expanduser() for run in settings.runs], settings.baseline, settings.published)
    print_comparison(comparison)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "compare.md", markdown_from_comparison(comparison))
        write_text(output / "compare.csv", csv_from_comparison(comparison))
        pages = write_side_by_side(comparison.tables, output)
        write_comparison_page(output / "compare.html", comparison, pages)
        print(f"page: {output / 'compare.html'}")


def split_folders(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words that name folders, and the settings; a folder's name may hold a =."""
    folders: list[str] = []
    rest: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_setting = argument.startswith("-") or before == CONFIG_DIR
        is_folder = not is_setting and ("=" not in argument or Path(argument).is_dir())
        (folders if is_folder else rest).append(argument)
    return folders, rest
