"""Options of a command from a class of settings: one for each field, with its default, its range and its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Le

from edgeprune.cli.sizes import size_option
from edgeprune.errors import DataError, TargetError
from edgeprune.input_size import Size
from edgeprune.settings import YAML_KEYS, Overrides, Settings, descriptions, hours_from

FLAGS = {"time_h": "--time", "time_limit_s": "--seconds"}
"""Options that are not called like their field or its key in YAML."""


def options_from_settings(
    command: Callable[..., None], *, said: Mapping[str, str] | None = None
) -> Callable[..., None]:
    """Replace each parameter of ``command`` that is a class of settings by one option for each of its fields.

    ``**overrides: Unpack[Overrides]`` becomes options too; what is not given is None.

    Args:
        command: function of a command.
        said: field to help, where a field's own docstring is not what it means to this command.
    """
    said = said or {}
    hints = get_type_hints(command, include_extras=True)
    sections: dict[str, type[Settings]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            parameters += [_option(key, None, Overrides) for key in get_type_hints(Overrides)]
        elif inspect.isclass(hints[name]) and issubclass(hints[name], Settings):
            sections[name] = hints[name]
            parameters += _options(hints[name], said)
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        for name, cls in sections.items():
            given = {field.name: values.pop(field.name) for field in fields(cls)}
            if "train" in given:
                given["train"] = training_arguments(given["train"] or [])
            values[name] = cls(**given)
        command(**values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def option_of(cls: type[Settings], name: str, flag: str = "", *, without: str = "{} if not given") -> Any:
    """The option of one field alone, for a parameter whose default is None: whoever is not told follows another source.

    Args:
        cls: class of settings.
        name: of the field.
        flag: of the option; as :func:`options_from_settings` calls it when empty.
        without: what holds where it is not given, ``{}`` for the field's default.
    """
    base, default = get_type_hints(cls)[name], getattr(cls, name)
    first, _, _ = descriptions(cls)[name].removesuffix(".").partition(". ")
    choices = f": {', '.join(get_args(base))}" if get_origin(base) is Literal else ""
    held = f"{default:g}" if isinstance(default, (int, float)) else default
    least, most = _limits(cls, name)
    text = _as_typed(f"{first}{choices}; {without.format(held)}.")
    return typer.Option(flag or _flag(name), help=text, min=least, max=most)


def _options(cls: type[Settings], said: Mapping[str, str]) -> Iterator[inspect.Parameter]:
    for field in fields(cls):
        default = None if field.default is MISSING else field.default
        yield _option(field.name, default, cls, said.get(field.name, ""))


def _option(name: str, default: Any, cls: type, said: str = "") -> inspect.Parameter:
    base, flag = get_type_hints(cls)[name], _flag(name)
    least, most = _limits(cls, name)
    text = _as_typed(said or descriptions(cls)[name])
    if get_origin(base) is dict:  # given as pairs
        base, text = list[str] | None, f"{text.rstrip('.')}: NAME=VALUE."
    if {Path, str} <= set(get_args(base)):  # of the two, a terminal gives the first
        base = Path | None
    if set(get_args(Size)) <= set(get_args(base)):  # a parser of its own gives the type
        base, option = Any, size_option(text, flag)
    elif name == "time_h":
        base, option = Any, typer.Option(flag, parser=_hours, metavar="2h|30m", help=text.replace("Hours", "Time"))
    else:
        option = typer.Option(flag, help=text, min=least, max=most)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[base, option])


def _flag(name: str) -> str:
    return FLAGS.get(name, f"--{YAML_KEYS.get(name, name).replace('_', '-')}")


def _as_typed(text: str) -> str:
    """What a docstring says, for a terminal: without marks, and with options for the fields that are called so."""
    for name, flag in FLAGS.items():
        text = text.replace(f"``{name}``", flag)
    return text.replace("``", "")


def _limits(cls: type, name: str) -> tuple[Any, Any]:
    """The least and the most that a field may be; None for what has no such end."""
    limits = get_args(get_type_hints(cls, include_extras=True)[name])
    least = next((limit.ge for limit in limits if isinstance(limit, Ge)), None)
    most = next((limit.le for limit in limits if isinstance(limit, Le)), None)
    return least, most


def _hours(text: str) -> float:
    try:
        return hours_from(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def training_arguments(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a dictionary, values read as YAML (numbers, true, lists); ``None`` is null.

    Raises:
        TargetError: something that is no such pair.
    """
    from edgeprune.limited_yaml import parse_yaml

    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        try:
            value = parse_yaml(text, f"--train {name}")
        except DataError:
            value = text
        if isinstance(value, str) and value.strip().lower() == "none":  # as Ultralytics' own command takes it
            value = None
        if not sign or not name.isidentifier():
            raise TargetError(f"--train {pair!r}: allowed is NAME=VALUE, for example --train mosaic=0.5")
        arguments[name] = value
    return arguments
