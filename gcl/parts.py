"""Parts: what a config names by `_target_`, checked against its constructor and then made.

The constructor's parameters are the schema: names, types, defaults, and the comment behind each, which becomes its
help. Nothing is declared twice.
"""

import dataclasses
import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pydantic

from gcl.errors import UserError

TARGET = "_target_"
REQUIRED = "???"  # OmegaConf's mark for a value that must be given
# Where parts live; and a part is a class or a `build_` function, which only makes an object.
PART_PACKAGES = ("gcl.data.", "gcl.losses.", "gcl.models.", "gcl.retrieval.", "gcl.training.")
PARAMETER_COMMENT = re.compile(r"^\s*(\w+)\s*:.*?\s#\s(.*)$", re.MULTILINE)

Settings = dict[str, Any]
Schema = Callable[..., Any]


class Part(dict[str, Any]):
    """The type of a setting that must be a part: a dict with a `_target_`."""


class UnsetError(UserError):
    """A setting that has no default and was not given."""


def check(settings: Settings, schema: Schema, path: str = "", only_gcl: bool = False) -> Settings:
    """`settings` checked against the parameters of `schema`, with defaults filled in; nested parts likewise.

    Args:
        path: what stands before the names in messages, such as "train.".
        only_gcl: allow only parts defined in gcl: for settings that came with a checkpoint, not from the user.

    Raises:
        UserError: an unknown, missing or wrongly typed setting; a `_target_` that cannot be found.
    """
    parameters = parameters_of(schema)
    hints = type_hints(schema)
    checked: Settings = {TARGET: settings[TARGET]} if TARGET in settings else {}
    for key in settings:
        if key != TARGET and key not in parameters:
            raise UserError(
                f"unknown setting {path}{key}{suggestion(key, path, parameters, settings)}; --help lists them all"
            )
    unset: UnsetError | None = None  # raised last: a misspelt name is often why another is missing
    for name, parameter in parameters.items():
        try:
            if is_unset(settings.get(name, parameter.default)):
                raise UnsetError(f"{path}{name} must be set{explained(schema, name)}")
            if name in settings:
                checked[name] = check_value(settings[name], hints[name], f"{path}{name}", only_gcl)
            else:
                checked[name] = plain_default(schema, name, parameter)
        except UnsetError as error:
            unset = unset or error
    if unset:
        raise unset
    return checked


def check_value(value: Any, hint: Any, path: str, only_gcl: bool) -> Any:
    """One value, checked against its type; a part or a settings dataclass is checked by its own constructor."""
    inner = dataclass_of(hint)
    if typing.get_origin(hint) is dict and inner and isinstance(value, dict):
        return {key: check_value(item, inner | None, f"{path}.{key}", only_gcl) for key, item in value.items()}
    if is_part(value):
        schema = locate(value[TARGET], path, only_gcl)
        if inner and not (inspect.isclass(schema) and issubclass(schema, inner)):
            raise UserError(f"{path}.{TARGET}={value[TARGET]} does not fit: {path} is a {inner.__name__}")
        return check(value, schema, f"{path}.", only_gcl)
    if inner and isinstance(value, dict):
        return check(value, inner, f"{path}.", only_gcl)
    if inner and isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [check(item, inner, f"{path}[{i}].", only_gcl) for i, item in enumerate(value)]
    if isinstance(value, dict) and holds_part(value):
        return {key: check_value(inner, Any, f"{path}.{key}", only_gcl) for key, inner in value.items()}
    if isinstance(value, list) and holds_part(value):
        return [check_value(item, Any, f"{path}[{i}]", only_gcl) for i, item in enumerate(value)]
    if hint is Any or (value is None and type(None) in typing.get_args(hint)):
        return value
    if not is_plain(hint):
        raise UserError(f"{path}={value!r} is no part; choose one by group, such as {path.rpartition('.')[2]}=NAME")
    try:
        adapter = pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(coerce_numbers_to_str=True))
        return adapter.dump_python(adapter.validate_python(value))
    except pydantic.ValidationError as error:
        rule = error.errors()[0]["msg"].removeprefix("Input ").removeprefix("Value ")
        raise UserError(f"{path}={value!r} does not fit: it {rule}") from error


def parameters_of(schema: Schema) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(schema).parameters)


def is_unset(value: Any) -> bool:
    return value is inspect.Parameter.empty or value == REQUIRED


def check_parts(settings: Settings) -> Settings:
    """Settings that came with a checkpoint, every part of them checked and allowed only where it is gcl's own."""
    return {name: check_value(value, Any, name, only_gcl=True) for name, value in settings.items()}


def is_part(value: Any) -> bool:
    return isinstance(value, dict) and TARGET in value


def holds_part(value: Any) -> bool:
    """Whether there is a part at any depth."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return is_part(value) or any(holds_part(item) for item in inner)


def is_own_part(found: Any) -> bool:
    """Whether this is one of gcl's parts: a class or a `build_` function that gcl defines."""
    defined_in = str(getattr(found, "__module__", ""))
    return defined_in.startswith(PART_PACKAGES) and (inspect.isclass(found) or found.__name__.startswith("build_"))


def is_plain(hint: Any) -> bool:
    """Whether a type is written in a yaml as it stands: numbers, text, lists and dicts of them."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        arguments = [a for a in typing.get_args(hint) if isinstance(a, type) or typing.get_origin(a)]
        return all(is_plain(argument) for argument in arguments)
    return hint in (int, float, str, bool, list, dict, type(None), Path)


def type_hints(schema: Schema) -> dict[str, Any]:
    function = schema.__init__ if inspect.isclass(schema) else schema
    return typing.get_type_hints(function, include_extras=True)


def plain_default(schema: Schema, name: str, parameter: inspect.Parameter) -> Any:
    """A parameter's default as it would stand in a yaml."""
    if dataclasses.is_dataclass(schema):
        field = next(field for field in dataclasses.fields(schema) if field.name == name)
        if field.default_factory is not dataclasses.MISSING:
            made: Any = field.default_factory()
            return dict(vars(made)) if dataclasses.is_dataclass(made) else made
    return parameter.default


def locate(target: Any, path: str, only_gcl: bool) -> Schema:
    """The class or function that a `_target_` names.

    Raises:
        UserError: there is none, or it is not defined in gcl where only gcl's own may be used.
    """
    module_name, _, name = str(target).rpartition(".")
    if only_gcl and not module_name.startswith(PART_PACKAGES):
        raise UserError(
            f"{path}.{TARGET}={target} lies outside gcl; settings that come with a checkpoint may only name gcl's parts"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}.{TARGET}={target} cannot be imported ({error}); write it as module.Class") from error
    if only_gcl and not is_own_part(found):
        raise UserError(
            f"{path}.{TARGET}={target} is not gcl's own; settings that come with a checkpoint may only name gcl's parts"
        )
    return typing.cast(Schema, found)


def nearest(name: str, names: Iterable[str]) -> str:
    """' (did you mean X?)' for the nearest of `names`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def suggestion(key: str, path: str, parameters: Any, settings: Settings) -> str:
    """The nearest setting on the same level, or one of that name a level below."""
    if close := nearest(f"{path}{key}", [f"{path}{name}" for name in parameters]):
        return close
    below = [
        f"{path}{group}.{key}"
        for group, inner in settings.items()
        if is_part(inner) and key in parameters_of(locate(inner[TARGET], group, False))
    ]
    return f" (did you mean {below[0]}?)" if below else ""


def build(part: Settings) -> Any:
    """Make the object that a checked part describes; parts and settings inside it are made first."""
    return build_as(locate(part[TARGET], "", False), part)


def build_as(schema: Schema, settings: Settings) -> Any:
    """Call `schema` with checked settings, made into what its parameters ask for."""
    hints = type_hints(schema)
    return schema(**{name: build_value(value, hints[name]) for name, value in settings.items() if name != TARGET})


def build_value(value: Any, hint: Any) -> Any:
    """A part, a settings dataclass or a list or dict of them made; anything else as it is."""
    if is_part(value):
        return build(value)
    inner = dataclass_of(hint)
    if isinstance(value, list) and inner:
        return [build_as(inner, item) for item in value]
    if isinstance(value, dict) and typing.get_origin(hint) is dict and inner:
        return {key: build_as(inner, item) for key, item in value.items() if item is not None}
    if isinstance(value, dict):
        return build_as(inner, value) if inner else {key: build_value(item, Any) for key, item in value.items()}
    return value


def dataclass_of(hint: Any) -> type | None:
    """The dataclass that a type is, or holds: X, X | None, list[X], dict[str, X]."""
    return next((h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h) and inspect.isclass(h)), None)


def comments(schema: Schema) -> dict[str, str]:
    """The comment behind each parameter in the source of `schema`."""
    if inspect.isclass(schema) and not dataclasses.is_dataclass(schema):
        schema = vars(schema).get("__init__", schema)
    return dict(PARAMETER_COMMENT.findall(inspect.getsource(schema)))


def explained(schema: Schema, name: str) -> str:
    comment = comments(schema).get(name)
    return f": {comment}" if comment else ""


def flat(settings: Any, path: str = "") -> Settings:
    """Nested dicts as one, keys joined by dots."""
    if not isinstance(settings, dict) or not settings:
        return {path: settings}
    prefix = f"{path}." if path else ""
    return {name: value for key, inner in settings.items() for name, value in flat(inner, f"{prefix}{key}").items()}
