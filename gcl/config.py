"""Settings: composed by Hydra from conf/ and the command line, checked before anything is loaded."""

import sys
import typing
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gcl.errors import UserError
from gcl.help import help_text
from gcl.parts import TARGET, Schema, Settings, check, nearest


def shipped(name: str) -> Path:
    """A file or folder that lies beside the package in a checkout and inside it in a wheel: conf/, train.py."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.exists() else package.parent / name


def load_settings(verb: str, schema: Schema, arguments: list[str]) -> Settings:
    """The checked settings of one verb, every default filled in.

    Args:
        verb: the primary config, conf/VERB.yaml.
        schema: the dataclass of the verb's top-level settings.
        arguments: the command line: `key=value`, `group=option`, `--config-dir DIR`, `--help`.

    Raises:
        UserError: an unknown group, option or key (naming the nearest), or a value of the wrong type.
        SystemExit: after printing the help.
    """
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    overrides, config_dir = split_flags([argument for argument in arguments if argument not in ("-h", "--help")])
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        try:
            settings = compose_settings(verb, overrides, config_dir)
        except OverrideParseException as error:
            key, _, value = error.override.partition("=")
            raise UserError(
                f"{error.override} cannot be understood; a value with spaces, braces or signs needs quotes of its own: "
                f"""'{key}="{value}"'"""
            ) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(first_line(error)) from error
        except yaml.MarkedYAMLError as error:
            raise UserError(f"no YAML: {error.problem} {str(error.problem_mark).strip()}") from error
        if wants_help:
            options = {group: loader().get_group_options(group) for group in groups_of(verb)}
            print(help_text(verb, schema, settings, options))
            sys.exit(0)
    return check(settings, schema)


def split_flags(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Hydra's overrides, and the folder given by `--config-dir`."""
    overrides, config_dir = [], None
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--config-dir"):
            value = argument.partition("=")[2] or next(rest, "")
            config_dir = Path(value).resolve()
            if not value or not config_dir.is_dir():
                raise UserError(
                    f"--config-dir {value} is no folder; give one laid out like conf/ (experiment/NAME.yaml, ...)"
                )
        elif argument.startswith("-") or ("=" not in argument and not argument.startswith("~")):
            raise UserError(
                f"{argument!r} is not understood; write key=value, group=option, --config-dir DIR or --help"
            )
        else:
            overrides.append(argument)
    return overrides, config_dir


def compose_settings(verb: str, arguments: list[str], config_dir: Path | None) -> Settings:
    """Compose conf/VERB.yaml: groups by Hydra, then single values on top, resolved to plain dicts and lists."""
    groups = set(loader().list_groups(""))
    overrides = OverridesParser.create().parse_overrides(arguments)
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line} lists several values; one run takes one; a list stands in brackets, key=[a,b], "
                "and a value with a comma in quotes of its own"
            )
    choices = [o for o in overrides if o.key_or_group in groups and not isinstance(o.value(), dict)]
    lines = [str(override.input_line) for override in choices]
    if config_dir:
        lines.append(f"hydra.searchpath=[file://{config_dir}]")
    else:
        for choice in choices:
            check_option(choice)
    config = compose(verb, lines)
    OmegaConf.set_struct(config, False)
    for override in overrides:
        if override not in choices:
            set_value(config, override)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return typing.cast(Settings, resolved)


def set_value(config: Any, override: Override) -> None:
    """Set, add or remove one value. A dict replaces what was there, except where it changes some settings of a part."""
    key = override.key_or_group
    if override.is_delete():
        parent, _, name = key.rpartition(".")
        holder = OmegaConf.select(config, parent) if parent else config
        if not OmegaConf.is_dict(holder) or name not in holder:
            near = nearest(name, holder) if OmegaConf.is_dict(holder) else ""
            raise UserError(f"{override.input_line} removes what is not there{near}; --help lists all settings")
        holder.pop(name)
        return
    present = OmegaConf.select(config, key)
    is_part_there = OmegaConf.is_dict(present) and TARGET in present
    OmegaConf.update(config, key, override.value(), merge=is_part_there, force_add=True)


def chosen_option(verb: str, group: str, arguments: list[str]) -> str:
    """The option that a command line takes of a group, for a name: the last one given, or conf/VERB.yaml's."""
    given = [value for key, _, value in (argument.partition("=") for argument in arguments) if key == group]
    defaults = yaml.safe_load((shipped("conf") / f"{verb}.yaml").read_text())["defaults"]
    return given[-1] if given else next(str(entry[group]) for entry in defaults if group in entry)


def loader() -> Any:
    """Hydra's view of conf/; only while Hydra is initialized."""
    return GlobalHydra.instance().config_loader()


def groups_of(verb: str) -> list[str]:
    """The config groups that a verb chooses from."""
    defaults = yaml.safe_load((shipped("conf") / f"{verb}.yaml").read_text())["defaults"]
    names = [name.partition("@")[0] for entry in defaults if isinstance(entry, dict) for name in entry]
    return list(dict.fromkeys(names))


def check_option(choice: Override) -> None:
    """Refuse a group's option that has no yaml, naming the nearest."""
    options = loader().get_group_options(choice.key_or_group)
    chosen: Any = choice.value()
    for value in chosen if isinstance(chosen, list) else [chosen]:
        if str(value) not in options and not choice.is_delete():
            raise UserError(
                f"{choice.input_line}: no such {choice.key_or_group}{nearest(str(value), options)}; "
                f"there are {', '.join(options)}"
            )


def first_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])
