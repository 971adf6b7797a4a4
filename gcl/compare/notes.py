"""What readers must know of a table before they set its rows level."""

import json

from gcl.compare.entry import Entry
from gcl.compare.published import HARD
from gcl.compare.significance import with_queries_of


def notes_on(group: list[Entry], above: list[Entry] | None) -> list[str]:
    """Sentences.

    Args:
        group: the entries of one table.
        above: those of the table before it, of the same task and regime, where there is one.
    """
    return [*([why_apart(group[0])] if above else []), *other_queries(group), *other_settings(group)]


def why_apart(first: Entry) -> str:
    """Why a second table of a task stands by itself."""
    if not first.is_published:
        return "Measured on other products, or asked otherwise, than the table above: not to be set level with it."
    if first.regime == HARD:
        return f"Published, on about {first.corpus:,} products: not to be set level with the table above."
    return "Published, on a sample that is not known: not to be set level with the table above."


def other_queries(group: list[Entry]) -> list[str]:
    """Who was asked other queries than the first entry, as far as can be known."""
    measured = [entry for entry in group if not entry.is_published]
    differing = [entry.model for entry in measured[1:] if not has_same_queries(measured[0], entry)]
    if not differing:
        return []
    return [f"Not of the same queries as {measured[0].model}: {', '.join(differing)}. They are not tested."]


def has_same_queries(one: Entry, other: Entry) -> bool:
    if one.per_query is None or other.per_query is None:
        return one.queries == other.queries
    return with_queries_of(one.per_query, other.per_query) is not None


def other_settings(group: list[Entry]) -> list[str]:
    """Who was evaluated with other sides or dimensions than the first entry that says."""
    said = [entry for entry in group if entry.facts]
    notes = []
    for entry in said[1:]:
        differing = [name for name, value in entry.facts.items() if value != said[0].facts[name]]
        shown = [[json.dumps(one.facts[name]) for one in (entry, said[0])] for name in differing]
        pairs = [
            f"{name} {own} where {said[0].model} has {first}"
            for name, (own, first) in zip(differing, shown, strict=True)
        ]
        notes += [f"{entry.model} has {', '.join(pairs)}."] if pairs else []
    return notes
