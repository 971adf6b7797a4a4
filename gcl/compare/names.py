"""Names for models that were measured more than once, and the one of them that is the baseline."""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from gcl.compare.entry import Entry, readable
from gcl.errors import UserError
from gcl.parts import nearest

# What may tell results of one model apart, the coarsest first: results of several tasks stay one model's.
PLACES: tuple[Callable[[Entry], Path | None], ...] = (
    lambda entry: None,
    lambda entry: entry.run,
    lambda entry: entry.folder and entry.folder.parent,
    lambda entry: entry.folder,
)


def told_apart(entries: list[Entry]) -> list[Entry]:
    """The entries under names of which none has two results for a task, told apart by folders where needed."""
    names: dict[int, str] = {}
    numbers = sorted(range(len(entries)), key=lambda number: entries[number].model)
    for model, group in groupby(numbers, key=lambda number: entries[number].model):
        mine = list(group)
        place = next((place for place in PLACES if is_one_each([entries[i] for i in mine], place)), PLACES[-1])
        for i in mine:
            where = place(entries[i])
            names[i] = f"{model} ({readable(where)})" if where else model
    return [replace(entry, model=names[i]) for i, entry in enumerate(entries)]


def is_one_each(entries: list[Entry], place: Callable[[Entry], Path | None]) -> bool:
    """Whether no place has two results for a task, nor what was measured beside what was published."""
    keys = [(place(entry), entry.task, entry.regime) for entry in entries]
    sources = {(place(entry), entry.is_published) for entry in entries}
    return len(set(keys)) == len(keys) and len({where for where, _ in sources}) == len(sources)


def baseline_of(entries: list[Entry], wanted: str | None) -> str:
    """The model that is named, or whose number it is, from 1; the first where none is wanted.

    Raises:
        UserError: there is none of that name or number.
    """
    models = list(dict.fromkeys(entry.model for entry in entries))
    if wanted is None:
        return models[0]
    if wanted in models:
        return wanted
    if wanted.isdecimal() and 1 <= int(wanted) <= len(models):
        return models[int(wanted) - 1]
    of_run = list(dict.fromkeys(entry.model for entry in entries if entry.run == Path(wanted).expanduser()))
    if len(of_run) == 1:
        return of_run[0]
    numbered = ", ".join(f"{number} {model}" for number, model in enumerate(models, start=1))
    raise UserError(f"baseline={wanted} is none of the models{nearest(wanted, models)}; there are {numbered}")
