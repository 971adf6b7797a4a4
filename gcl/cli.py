"""`gcl VERB key=value ...`: one line per verb."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable

from gcl import __version__
from gcl.errors import PLACE_ERRORS, UserError
from gcl.parts import nearest

VERBS = {
    "prepare": ("gcl.data.prepare.command", "a source's rows become tar shards with a manifest"),
    "doctor": ("gcl.doctor.command", "what is in shards, what is wrong, and how fast they are read"),
    "train": ("gcl.train", "fine-tune a dual encoder (the same as train.py)"),
    "mine": ("gcl.retrieval.mine", "hard negatives for every row of a split, for training"),
    "evaluate": ("gcl.retrieval.command", "retrieval metrics of a run, a checkpoint or a published model"),
    "compare": ("gcl.compare.command", "models beside each other and beside published ones, task by task"),
    "classify": ("gcl.retrieval.classify", "which of some labels fit an image, zero-shot"),
    "latency": ("gcl.retrieval.latency", "milliseconds and rows per second of a model on a device"),
    "export": ("gcl.export.command", "a run's checkpoint as files that other software loads"),
}


def main() -> None:
    """Entry point of `gcl` and `python -m gcl`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
    elif arguments[0] == "--version":
        print(__version__)
    else:
        run_command(lambda: run_verb(arguments[0], arguments[1:]))


def run_verb(verb: str, arguments: list[str]) -> None:
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; there are {', '.join(VERBS)}")
    module = "train" if verb == "train" and importlib.util.find_spec("gcl.train") is None else VERBS[verb][0]
    importlib.import_module(module).main(arguments)


def usage() -> str:
    lines = ["gcl VERB key=value ...", "", *(f"  {verb:<10} {what}" for verb, (_, what) in VERBS.items())]
    return "\n".join([*lines, "", "gcl VERB --help lists a verb's settings."])


def run_command(command: Callable[[], None]) -> None:
    """Run a verb; a user's mistake ends as one line on standard error and exit status 2, interruption as 130."""
    try:
        command()
    except UserError as error:
        say(error)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        place = f" {error.filename}" if error.filename else ""
        say(UserError(f"cannot write{place}: {error.strerror}; make room, or choose another place"))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def say(error: UserError) -> None:
    """Print an error once: before processes have joined, every rank fails alike, and rank 0 speaks for all."""
    # A data worker's error comes with its trace, and its own message behind that.
    message = " ".join(str(error).rpartition("gcl.errors.UserError: ")[2].split())
    from gcl.distributed import is_initialized, rank  # noqa: PLC0415  # torch is slow to import, and --help needs none

    if is_initialized():
        print(f"gcl: error: [rank {rank()}] {message}", file=sys.stderr, flush=True)
    elif os.environ.get("RANK", "0") == "0":
        print(f"gcl: error: {message}", file=sys.stderr, flush=True)
