"""YAML and JSON changed where they stand: what is not changed stays to the letter.

A parser says where each value begins and ends. What is written anew is that part of the
text alone, in the way of its neighbours: their quotes, their indentation, a line each
or one for all. JSON is YAML in which every table has braces.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

STEP = "  "
"""What a new table is indented by where a file has no table to learn from."""
_ALIAS = re.compile(r"\s*:\s*(\*[^\s,\]}]+)")

Path = tuple[str, ...]


def with_value(text: str, path: Path, value: Any) -> str:
    """A document in which that key has that value; tables that lack are made.

    Raises:
        ValueError: what should hold other keys is a value.
    """
    root = _root(text)
    table, depth = root, 0
    while (pair := _find(text, table, path[depth])) is not None:
        depth += 1
        if depth == len(path):
            return _replaced(text, root, pair, value)
        if not isinstance(pair.value, yaml.MappingNode):
            if not _is_null(pair.value):
                raise ValueError(f"{'.'.join(path[:depth])} holds no other keys")
            return _replaced(text, root, pair, _nested(path[depth:], value))
        table = pair.value
    value = _nested(path[depth + 1 :], value)
    return _added(text, root, table, path[depth], value)


def without(text: str, path: Path) -> str:
    """A document without that key, nor the tables that it leaves empty."""
    table = _root(text)
    found: list[tuple[yaml.MappingNode, _Pair]] = []
    for key in path:
        pair = _find(text, table, key) if isinstance(table, yaml.MappingNode) else None
        if pair is None:
            return text
        found.append((table, pair))
        table = pair.value
    table, pair = found.pop()
    while len(table.value) == 1 and found:
        table, pair = found.pop()
    if table.flow_style:
        return _cut_of_braces(text, table, pair)
    start = _line_start(text, pair.key.start_mark.index)
    end = _line_end(text, pair.end)
    if end < len(text):
        return text[:start] + text[text.index("\n", end) + 1 :]
    return text[:start].rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class _Pair:
    """A key of a table with its value, which stands from `start` to `end`."""

    key: yaml.Node
    value: Any
    start: int
    end: int
    is_in_braces: bool


def _root(text: str) -> yaml.MappingNode:
    # JSON may be indented by tabs, YAML not; a blank takes as much room.
    root = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("it holds no keys")
    return root


def _pairs(text: str, table: yaml.MappingNode) -> Iterator[_Pair]:
    for key, value in table.value:
        start, end = value.start_mark.index, _end(text, value)
        if start < key.end_mark.index:  # an alias, whose value stands further up
            alias = _ALIAS.match(text, key.end_mark.index)
            if alias is None:
                raise ValueError(f"line {key.start_mark.line + 1} is not understood")
            start, end = alias.span(1)
        yield _Pair(key, value, start, end, bool(table.flow_style))


def _find(text: str, table: yaml.MappingNode, name: str) -> _Pair | None:
    """The pair that counts: of several the last."""
    pairs = (pair for pair in _pairs(text, table) if pair.key.value == name)
    return next(reversed(list(pairs)), None)


def _end(text: str, node: yaml.Node) -> int:
    """Where a value ends; that of a block is where the parser finds the next one."""
    end: int = node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return len(text[:end].rstrip())
    return end


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _nested(path: Path, value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _replaced(text: str, root: yaml.MappingNode, pair: _Pair, value: Any) -> str:
    """Another value in the place of one."""
    start = pair.start
    if root.flow_style:
        indent = _indentation(text, pair.key.start_mark.index)
        words = _json(text, root, value, indent)
    elif isinstance(value, Mapping) and value and not pair.is_in_braces:
        indent = _indentation(text, pair.key.start_mark.index)
        start = len(text[:start].rstrip())
        newline = _newline(text)
        lines = _block(value, indent + _step(root), _step(root))
        words = "".join(newline + line for line in lines)
    elif _is_block_list(pair.value) and isinstance(value, list) and value:
        dashes = _newline(text) + _indentation(text, start)
        words = dashes.join(f"- {_words(item)}" for item in value)
    else:
        words = _like(text[start : pair.end], value)
        stands_below = "\n" in text[pair.key.end_mark.index : start]
        if start == pair.end or stands_below:  # `key:`, and maybe a block
            start = len(text[:start].rstrip())
            words = " " + words
    return text[:start] + words + text[pair.end :]


def _is_block_list(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and not node.flow_style


def _added(
    text: str, root: yaml.MappingNode, table: yaml.MappingNode, key: str, value: Any
) -> str:
    """One pair more, behind the last of its table."""
    pairs = list(_pairs(text, table))
    if not table.flow_style:
        indent = _indentation(text, pairs[0].key.start_mark.index)
        newline, end = _newline(text), _line_end(text, pairs[-1].end)
        lines = _block({key: value}, indent, _step(root))
        return text[:end] + "".join(newline + line for line in lines) + text[end:]
    first = pairs[0].key.start_mark.index if pairs else 0
    is_a_line_each = bool(pairs) and "\n" in text[table.start_mark.index : first]
    indent = _indentation(text, first) if is_a_line_each else ""
    if root.flow_style:
        said = _json(text, root, value, indent if is_a_line_each else None)
        words = f"{json.dumps(key, ensure_ascii=False)}: {said}"
    else:
        words = f"{_words(key)}: {_words(value)}"
    if not pairs:
        start, end = table.start_mark.index, table.end_mark.index
        return f"{text[:start]}{{{words}}}{text[end:]}"
    between = _newline(text) + indent if is_a_line_each else " "
    end = pairs[-1].end
    return f"{text[:end]},{between}{words}{text[end:]}"


def _cut_of_braces(text: str, table: yaml.MappingNode, pair: _Pair) -> str:
    """A pair less, with the comma that divided it from another."""
    pairs = list(_pairs(text, table))
    place = next(i for i, other in enumerate(pairs) if other.key is pair.key)
    if place:
        return text[: pairs[place - 1].end] + text[pair.end :]
    start = pair.key.start_mark.index
    end = pairs[1].key.start_mark.index if len(pairs) > 1 else pair.end
    return text[:start] + text[end:]


def _block(value: Mapping[str, Any], indent: str, step: str = STEP) -> Iterator[str]:
    """A table in lines, a key each; lists in one."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield f"{indent}{_words(key)}:"
            yield from _block(item, indent + step, step)
        else:
            yield f"{indent}{_words(key)}: {_words(item)}"


def _words(value: Any) -> str:
    """A value of YAML in one line."""
    listed = yaml.safe_dump(
        [value],
        default_flow_style=True,
        width=2**20,
        allow_unicode=True,
        sort_keys=False,
    )
    return str(listed).strip()[1:-1]


def _like(old: str, value: Any) -> str:
    """A value as the old one was written: its quotes, and `True` where that was."""
    if isinstance(value, str) and old[:1] == "'":
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, str) and old[:1] == '"':
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) and old in ("True", "False"):
        return str(value)
    return _words(value)


def _json(text: str, root: yaml.MappingNode, value: Any, indent: str | None) -> str:
    """A value of JSON; tables a line for each key where `indent` is that of theirs."""
    if isinstance(value, float):
        return _words(value)  # YAML wants a point in it, and JSON may have one
    if indent is None or not isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    first = root.value[0][0].start_mark.index if root.value else 0
    lines = json.dumps(value, ensure_ascii=False, indent=_indentation(text, first))
    return lines.replace("\n", _newline(text) + indent)


def _step(root: yaml.MappingNode) -> str:
    """What tables of a document are indented by: as its first one is."""
    for _, value in root.value:
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            column = value.start_mark.column - root.start_mark.column
            return " " * column if column > 0 else STEP
    return STEP


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_start(text: str, place: int) -> int:
    return text.rfind("\n", 0, place) + 1


def _line_end(text: str, place: int) -> int:
    end = text.find("\n", place)
    if end < 0:
        return len(text)
    return end - 1 if text[end - 1] == "\r" else end


def _indentation(text: str, place: int) -> str:
    """Blanks and tabs that the line of a place begins with."""
    line = text[_line_start(text, place) : place]
    return line[: len(line) - len(line.lstrip())]
