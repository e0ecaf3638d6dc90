"""Files of YAML, TOML and JSON as plain data; none of them runs anything."""

import tomllib
from pathlib import Path
from typing import Any

import yaml

from memplan.errors import ConfigError
from memplan.inputs.configs.format import Document
from memplan.untrusted import MOST_DIGITS, plain_data, visible

MOST_BYTES = 2**18
"""No configuration is longer: it would be another file, named by mistake."""
MOST_VALUES = 100_000
"""Neither has any so many; aliases of YAML can say more in a few lines."""
DEEPEST = 64


def load(file: Path) -> Document:
    """A file's contents, by its ending; JSON and YAML where that says nothing.

    Raises:
        ConfigError: it cannot be read, or is no document; the sentence names the file
            and the line where there is one.
    """
    if file.suffix.lower() == ".py":
        raise ConfigError(
            f"{file} is a program, and nothing is run to be read.",
            hint="torchtitan after 0.2 is configured in Python: pass its values as "
            "flags, or a TOML file.",
        )
    try:
        return parse(text_of(file), file.suffix)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{file} cannot be read: {_reason(error)}.",
            hint="Configurations are YAML, TOML or JSON.",
        ) from error


def parse(text: str, suffix: str) -> Document:
    """What a text says, in the language that the ending of its file stands for.

    Raises:
        ValueError, YAMLError, RecursionError: it is no document.
    """
    return _checked(_parsed(text, suffix.lower()))


def text_of(file: Path) -> str:
    """A file's text.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(
                f"{file} is longer than any configuration.",
                hint=f"memplan reads up to {MOST_BYTES // 2**10} KiB.",
            )
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}.", hint="Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is no text.", hint="Configurations are YAML, TOML or JSON."
        ) from error


def _parsed(text: str, suffix: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix == ".json":
        return plain_data(text)
    return _yaml(text)  # of which JSON is a part


def _yaml(text: str) -> Any:
    """As `yaml.safe_load`; what aliases multiply is counted before it is made."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_values(node, {}) > MOST_VALUES:
            raise ValueError("it is larger than any configuration")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _num_values(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Of a node with all its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = None
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[node] = 1 + sum(_num_values(part, known) for part in parts)
    size = known[node]
    if size is None:
        raise ValueError("an alias in it holds itself")
    return size


def _checked(document: Any) -> Document:
    """Tables whose keys are text, and values that can be worked on and printed."""
    if not isinstance(document, dict):
        raise ValueError("it holds no keys")
    checked = _plain(document, DEEPEST)
    assert isinstance(checked, dict)
    return checked


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueError("it is nested deeper than any configuration")
    match value:
        case dict():
            return {visible(str(k)): _plain(v, depth - 1) for k, v in value.items()}
        case list():
            return [_plain(item, depth - 1) for item in value]
        case None | bool():
            return value
        case int() | float() if not abs(value) < 10**MOST_DIGITS:
            raise ValueError("it has a number beyond measure")
        case int() | float():
            return value
    return visible(str(value))  # dates too


def _reason(error: Exception) -> str:
    """In a few words, with the line."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, RecursionError):
        problem = "it is nested too deeply"
    else:
        problem = getattr(error, "problem", None) or str(error)
    words = " ".join(visible(str(problem)).split()).removesuffix(".")
    return f"line {mark.line + 1}: {words}" if mark else words
