"""TOML into frozen, typed settings.

A settings class is a `msgspec.Struct` (see `Settings`) or a frozen dataclass; sections are nested classes::

    class Compute(Settings, frozen=True, kw_only=True):
        cpu_ratio: float = 4.0

    class Cloud(Settings, frozen=True, kw_only=True):
        compute: Compute = Compute()

    cloud = load(Cloud, Path("altostack.toml"))

`ALTOSTACK__COMPUTE__CPU_RATIO=8` in the environment overrides `cpu_ratio` in `[compute]`. A mistake is an
error that names the file, the key and the nearest valid key: nothing is ignored.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from altostack.kit.secret import Secret

PREFIX: Final = "ALTOSTACK__"

T = TypeVar("T")


class ConfigError(Exception):
    """A setting is wrong; the message names where it stands and how to mend it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of settings classes: frozen, by keyword, and strict."""


def load(kind: type[T], path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> T:
    """Read `path` (a missing file is an empty one) and the environment into a `kind`.

    Raises:
        ConfigError: the file is no TOML, a key is unknown, or a value has the wrong type or is missing.
    """
    environ = os.environ if environ is None else environ
    table = {} if path is None else _read(path)
    shape = inspect.type_info(kind)
    where = str(path) if path is not None else "the settings"
    for key, nearest in _unknown(table, shape, ()):
        raise ConfigError(f"{where}: unknown key {'.'.join(key)!r}{_hint(nearest)}")
    for name in sorted(environ):
        if name.startswith(PREFIX):
            _override(table, shape, name, environ[name])
    try:
        return msgspec.convert(table, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key_text = place.rstrip("`").lstrip(".")
        raise ConfigError(f"{where}: {key_text + ': ' if key_text else ''}{problem}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _decode(kind: type, value: object) -> object:
    """The types of ours that TOML does not have."""
    if kind in (Secret, Path) and isinstance(value, str):
        return kind(value)
    raise TypeError(f"Expected `{'str' if kind in (Secret, Path) else kind.__name__}`")


def _fields(shape: inspect.Type) -> dict[str, inspect.Type] | None:
    """Key to type for a section; None for what is not one."""
    if isinstance(shape, inspect.StructType | inspect.DataclassType):
        return {field.encode_name: field.type for field in shape.fields}
    if isinstance(shape, inspect.UnionType):
        for choice in shape.types:
            if (fields := _fields(choice)) is not None:
                return fields
    return None


def _mapped(shape: inspect.Type) -> inspect.Type | None:
    """The value type of a table whose keys are free names, such as `[pools.<name>]`."""
    return shape.value_type if isinstance(shape, inspect.DictType) else None


def _unknown(
    value: object, shape: inspect.Type, at: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each key that no field takes, with the nearest ones that exist."""
    if not isinstance(value, dict):
        return
    fields, mapped = _fields(shape), _mapped(shape)
    for key, inner in value.items():
        if fields is not None and key not in fields:
            yield (*at, key), difflib.get_close_matches(key, fields, n=1) or sorted(fields)
        elif fields is not None:
            yield from _unknown(inner, fields[key], (*at, key))
        elif mapped is not None:
            yield from _unknown(inner, mapped, (*at, key))


def _hint(nearest: list[str]) -> str:
    if not nearest:
        return ""
    return (
        f"; did you mean {nearest[0]!r}?" if len(nearest) == 1 else f"; valid keys are {', '.join(nearest)}"
    )


def _override(table: dict[str, Any], shape: inspect.Type, name: str, text: str) -> None:
    """Put one environment variable's value where the file would have had it."""
    keys = [part.lower() for part in name.removeprefix(PREFIX).split("__")]
    for key in keys[:-1]:
        shape = _step(shape, key, name)
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: {key!r} is no section")
    shape = _step(shape, keys[-1], name)
    if _fields(shape) is not None:
        raise ConfigError(f"{name}: {keys[-1]!r} is a section; name a key in it")
    table[keys[-1]] = _parse(text, shape, name)


def _step(shape: inspect.Type, key: str, name: str) -> inspect.Type:
    if (mapped := _mapped(shape)) is not None:
        return mapped
    fields = _fields(shape) or {}
    if key not in fields:
        raise ConfigError(f"{name}: unknown key {key!r}{_hint(difflib.get_close_matches(key, fields, n=1))}")
    return fields[key]


def _parse(text: str, shape: inspect.Type, name: str) -> object:
    """Text as TOML would have written it; a bare word where text is wanted stays as it is."""
    kinds = shape.types if isinstance(shape, inspect.UnionType) else (shape,)
    if any(
        isinstance(kind, inspect.StrType | inspect.CustomType | inspect.EnumType) for kind in kinds
    ) or any(
        isinstance(kind, inspect.LiteralType) and all(isinstance(value, str) for value in kind.values)
        for kind in kinds
    ):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"{name}: {text!r} is not a TOML value") from None
