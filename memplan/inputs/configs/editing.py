"""A document's text with other values of some keys, and the rest of it as it was."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import tomlkit
import yaml
from tomlkit.items import Table
from tomlkit.toml_document import TOMLDocument

from memplan.errors import ConfigError
from memplan.inputs.configs import marks
from memplan.inputs.configs.documents import parse
from memplan.inputs.configs.format import Document, Keys

UNREADABLE = (ValueError, yaml.YAMLError, RecursionError)


def edited(
    text: str, suffix: str, keys: Keys, gone: Collection[tuple[str, ...]] = ()
) -> str:
    """A document with those keys set and those others taken out.

    Comments, order, quotes and indentation stay; a table that is left empty goes too.

    Args:
        text: what is there.
        suffix: the ending of its file, which tells its language.
        keys: what is set; tables that lack are made.
        gone: what is taken out, if it is there.

    Raises:
        ConfigError: it cannot be done so that nothing else changes.
    """
    try:
        wanted = _with_keys(parse(text, suffix), keys, gone)
        if suffix.lower() == ".toml":
            new = _edited_toml(text, keys, gone)
        else:
            new = text
            for path, value in keys.items():
                new = marks.with_value(new, path, _plain(value))
            for path in gone:
                new = marks.without(new, path)
        is_as_wanted = parse(new, suffix) == wanted
    except UNREADABLE:
        is_as_wanted = False
    if not is_as_wanted:
        names = ", ".join(".".join(path) for path in (*keys, *gone))
        raise ConfigError(
            f"{names} cannot be changed without changing more.",
            hint="Change it by hand: anchors, or tags, are in the way.",
        )
    return new


def dumped(keys: Keys, suffix: str) -> str:
    """A document of those keys alone."""
    document = _with_keys({}, keys, ())
    match suffix:
        case ".toml":
            return tomlkit.dumps(document)
        case ".json":
            import json

            return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        case _:
            text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
            return text


def _with_keys(
    document: Document, keys: Keys, gone: Collection[tuple[str, ...]]
) -> Document:
    """The same of the data of a document."""
    new = copy.deepcopy(document)
    for path, value in keys.items():
        table = new
        for name in path[:-1]:
            if table.get(name) is None:
                table[name] = {}
            table = table[name]
            if not isinstance(table, dict):
                raise ValueError(f"{name} holds no other keys")
        table[path[-1]] = _plain(value)
    for path in gone:
        _take_out(new, path)
    return new


def _take_out(table: Any, path: tuple[str, ...]) -> None:
    if not isinstance(table, dict) or path[0] not in table:
        return
    if len(path) == 1:
        del table[path[0]]
        return
    _take_out(table[path[0]], path[1:])
    if table[path[0]] == {}:
        del table[path[0]]


def _plain(value: Any) -> Any:
    """As parsers give it: a tuple is a list."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _edited_toml(text: str, keys: Keys, gone: Collection[tuple[str, ...]]) -> str:
    document = tomlkit.parse(text)
    for path, value in keys.items():
        table: Any = document
        for name in path[:-1]:
            if name not in table:
                _add(table, name, tomlkit.table())
            table = table[name]
        if path[-1] in table:
            table[path[-1]] = _plain(value)
        else:
            _add(table, path[-1], _plain(value))
    for path in gone:
        _take_out(document, path)
    return tomlkit.dumps(document)


def _add(table: Any, name: str, value: Any) -> None:
    """Behind the last key of a table: what stands there of the next one stays there."""
    match table:
        case Table():
            body = table.value.body
        case TOMLDocument():
            body = table.body
        case _:
            table[name] = value
            return
    behind = []
    while body and body[-1][0] is None and not isinstance(value, Table):
        behind.append(body.pop())
    table[name] = value
    body.extend(reversed(behind))
