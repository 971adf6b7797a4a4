"""What was found, in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gcl.doctor.advice import Advice, share
from gcl.doctor.examination import Examination
from gcl.doctor.repeats import Repeats

DAMAGED = 10  # shards that are named


def print_summary(examination: Examination, advice: list[Advice], page: Path | None) -> None:
    console = Console()
    console.print(splits_table(examination))
    console.print(", ".join(f"{count:,} {what}" for what, count in examination.distinct.items()), highlight=False)
    if refused := examination.rows.refused:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.items())
        console.print(Text(f"gcl prepare refused {sum(refused.values()):,} rows: {reasons}"))
    print_damage(console, examination)
    console.print(fields_table(examination))
    console.print(repeats_table(examination.repeats))
    if examination.good_images:
        console.print(Text(images_line(examination)))
    console.print(Text(f"\nWhat to do, what matters most first (images and tokens: of {examination.sample})", "bold"))
    for number, item in enumerate(advice, start=1):
        line = Text(f"{number}. {item.finding}: ", "bold red" if item.is_serious else "bold")
        # Text: what a shard is called may hold [brackets].
        console.print(line.append(item.remedy, "not bold default"), soft_wrap=True)
    if page:
        console.print(f"wrote {page}", soft_wrap=True, highlight=False, markup=False)
    else:
        console.print("a page with pictures: output_dir=FOLDER", highlight=False)


def splits_table(examination: Examination) -> Table:
    survey = examination.survey
    table = Table("split", *("rows", "unreadable", "shards", "MB"), title="Shards")
    for column in table.columns[1:]:
        column.justify = "right"
    for reader in examination.rows.readers:
        split, size = reader.split, reader.bytes
        lost = survey.listed[split] - survey.rows[split]
        table.add_row(split, f"{survey.rows[split]:,}", f"{lost:,}", f"{len(reader.shards):,}", f"{size / 1e6:,.1f}")
    return table


def print_damage(console: Console, examination: Examination) -> None:
    """Name the shards that are not whole, and the first samples that cannot be read in others."""
    survey = examination.survey
    lines = [f"{problem} ({survey.unreadable[file]:,} rows lost)" for file, problem in survey.damaged.items()]
    lines += [example.reason for example in survey.examples]
    for line in lines[:DAMAGED]:
        console.print(Text(f"cannot be read: {line}", "red"), soft_wrap=True)
    if len(lines) > DAMAGED:
        console.print(Text(f"and {len(lines) - DAMAGED} more", "red"))


def fields_table(examination: Examination) -> Table:
    headings = ["rows that have it", "characters, median", "longest"]
    if examination.context:
        headings += ["tokens, median", f"longer than {examination.context} tokens"]
    table = Table("field", *headings, title="Fields")
    for heading in table.columns[1:]:
        heading.justify = "right"
    for column in examination.columns:
        cells = [
            f"{share(column.share)}",
            *([f"{column.median:,}", f"{column.longest:,}"] if column.kind == "text" else []),
        ]
        if column.tokens is not None and column.cut is not None:
            cells += [f"{column.tokens:,}", share(column.cut)]
        table.add_row(Text(column.name), *cells)
    return table


def repeats_table(repeats: list[Repeats]) -> Table:
    table = Table("what", "looked at", "copies of an earlier one", "also in train", title="Duplicates")
    for column in table.columns[1:]:
        column.justify = "right"
    for found in repeats:
        where = " (sample)" if found.is_sample else ""
        table.add_row(
            Text(found.what),
            f"{found.looked_at:,}{where}",
            f"{found.copies:,} ({share(found.share)})",
            f"{found.leaked:,}",
        )
    return table


def images_line(examination: Examination) -> str:
    good = sorted(examination.good_images, key=lambda image: min(image.width, image.height))
    sides = [min(image.width, image.height) for image in good]
    kilobytes = sorted(image.bytes / 1000 for image in good)
    middle = len(good) // 2
    return (
        f"images: shorter side {sides[0]} to {sides[-1]} pixels, median {sides[middle]}; {kilobytes[0]:.1f} to "
        f"{kilobytes[-1]:.1f} KB, median {kilobytes[middle]:.1f}; {len(examination.bad_images):,} not decodable"
    )
