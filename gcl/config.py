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
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gcl.errors import UserError
from gcl.parts import (
    TARGET,
    Schema,
    Settings,
    check,
    comments,
    dataclass_of,
    is_part,
    is_unset,
    locate,
    nearest,
    parameters_of,
    plain_default,
    type_hints,
)


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
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(first_line(error)) from error
        except yaml.MarkedYAMLError as error:
            raise UserError(f"no YAML: {error.problem} {str(error.problem_mark).strip()}") from error
        if wants_help:
            print(help_text(verb, schema, settings))
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
        elif argument.startswith("-") or "=" not in argument.lstrip("~+"):
            raise UserError(
                f"{argument!r} is not understood; write key=value, group=option, --config-dir DIR or --help"
            )
        else:
            overrides.append(argument)
    return overrides, config_dir


def compose_settings(verb: str, arguments: list[str], config_dir: Path | None) -> Settings:
    """Compose conf/VERB.yaml: groups by Hydra, then single values on top, resolved to plain dicts and lists."""
    loader = GlobalHydra.instance().config_loader()
    groups = set(all_groups(loader))
    overrides = OverridesParser.create().parse_overrides(arguments)
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line} lists several values; one run takes one (quote a comma inside a value)"
            )
    choices = [override for override in overrides if override.key_or_group in groups or override.is_delete()]
    lines = [str(override.input_line) for override in choices]
    if config_dir:
        lines.append(f"hydra.searchpath=[file://{config_dir}]")
    else:
        for choice in choices:
            check_option(loader, choice)
    config = compose(verb, lines)
    OmegaConf.set_struct(config, False)
    for override in overrides:
        if override not in choices:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return typing.cast(Settings, resolved)


def all_groups(loader: Any, parent: str = "") -> list[str]:
    """Every config group under conf/, nested ones as parent/child."""
    found = []
    for name in loader.list_groups(parent):
        path = f"{parent}/{name}" if parent else name
        found += [path, *all_groups(loader, path)]
    return found


def check_option(loader: Any, choice: Override) -> None:
    """Refuse a group's option that has no yaml, naming the nearest."""
    options = loader.get_group_options(choice.key_or_group)
    chosen: Any = choice.value()
    for value in chosen if isinstance(chosen, list) else [chosen]:
        if value is not None and not choice.is_delete() and str(value) not in options:
            raise UserError(
                f"{choice.input_line}: no such {choice.key_or_group}{nearest(str(value), options)}; "
                f"there are {', '.join(options)}"
            )


def first_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def help_text(verb: str, schema: Schema, settings: Settings) -> str:
    """Usage, the config groups with their options, and every setting with its value and comment."""
    loader = GlobalHydra.instance().config_loader()
    command = "accelerate launch train.py" if verb == "train" else f"gcl {verb}"
    lines = [
        f"{command} key=value group=option ... [--config-dir DIR] [--help]",
        "",
        *(schema.__doc__ or "").splitlines(),
    ]
    lines += ["", "Groups (choose with group=option):"]
    names = parameters_of(schema)
    groups = [group for group in sorted(loader.list_groups("")) if group in names or f"{group}s" in names]
    groups += ["experiment"] if verb == "train" else []
    lines += [f"  {group:<12} {', '.join(loader.get_group_options(group))}" for group in groups]
    lines += ["", "Settings (as composed by this command line):", *settings_help(settings, schema, "")]
    return "\n".join(lines)


def settings_help(settings: Settings, schema: Schema, path: str) -> list[str]:
    """One line for each setting: its name, value and comment; parts below the plain values."""
    lines, parts = [], []
    explanations, hints = comments(schema), type_hints(schema)
    for name, parameter in parameters_of(schema).items():
        value = settings.get(name, plain_default(schema, name, parameter))
        if is_part(value):
            parts += ["", f"  {path}{name}: {value[TARGET]}"]
            parts += settings_help(value, locate(value[TARGET], path + name, False), f"{path}{name}.")
        elif isinstance(value, dict) and (inner := dataclass_of(hints[name])):
            parts += ["", f"  {path}{name}: {explanations.get(name, '')}"]
            parts += settings_help(value, inner, f"{path}{name}.")
        elif isinstance(value, dict) and any(is_part(item) for item in value.values()):
            for key, item in value.items():
                parts += ["", f"  {path}{name}.{key}: {item[TARGET]}"]
                parts += settings_help(item, locate(item[TARGET], path + name, False), f"{path}{name}.{key}.")
        else:
            shown = "(required)" if is_unset(value) else str(value)
            lines.append(f"  {f'{path}{name}={shown}':<44} {explanations.get(name, '')}".rstrip())
    return lines + parts
