"""What `--help` prints: a verb's groups and settings, explained by the comments in the constructors' source."""

import typing

from gcl.parts import (
    TARGET,
    Schema,
    Settings,
    comments,
    dataclass_of,
    is_part,
    is_unset,
    locate,
    parameters_of,
    plain_default,
    type_hints,
)


def help_text(verb: str, schema: Schema, settings: Settings, groups: dict[str, list[str]]) -> str:
    """Usage, the config groups with their options, and every setting with its value and comment."""
    command = "accelerate launch train.py" if verb == "train" else f"gcl {verb}"
    lines = [
        f"{command} key=value group=option ... [--config-dir DIR] [--help]",
        "",
        *(schema.__doc__ or "").splitlines(),
    ]
    lines += ["", "Groups (choose with group=option):"]
    lines += [f"  {group:<12} {', '.join(options)}" for group, options in groups.items()]
    lines += ["", "Settings (as composed by this command line):", *settings_help(settings, schema, "")]
    return "\n".join(lines)


def settings_help(settings: Settings, schema: Schema, path: str) -> list[str]:
    """One line for each setting: its name, value and comment; parts below the plain values."""
    lines, parts = [], []
    explanations, hints = comments(schema), type_hints(schema)
    for name, parameter in parameters_of(schema).items():
        value = settings.get(name, plain_default(schema, name, parameter))
        inner = dataclass_of(hints[name])
        if is_part(value):
            schema_below = locate(value[TARGET], path + name, False)
            meaning = (schema_below.__doc__ or "").partition("\n")[0]
            parts += section(value, schema_below, f"{path}{name}", f"{value[TARGET]}: {meaning}")
        elif isinstance(value, dict) and inner and typing.get_origin(hints[name]) is dict:
            for key, item in value.items():
                parts += section(item, inner, f"{path}{name}.{key}", explanations.get(name, ""))
        elif isinstance(value, dict) and inner:
            parts += section(value, inner, f"{path}{name}", explanations.get(name, ""))
        else:
            shown = "(required)" if is_unset(value) else str(value)
            lines.append(f"  {f'{path}{name}={shown}':<44} {explanations.get(name, '')}".rstrip())
            if inner and typing.get_origin(hints[name]) is list:
                lines += element_help(inner, f"{path}{name}")
    return lines + parts


def element_help(schema: Schema, path: str) -> list[str]:
    """What an element of a list holds."""
    return [f"    {f'{path}[].{name}':<42} {comment}" for name, comment in comments(schema).items()]


def section(settings: Settings, schema: Schema, path: str, heading: str) -> list[str]:
    """The settings below `path`, under a heading of their own."""
    return ["", f"  {path}: {heading}", *settings_help(settings, schema, f"{path}.")]
