"""The text of a configuration file (YAML or JSON) → plain data, with the line of everything, exact numbers and ${VARIABLES}.

It does not know which fields there are; and no message of it holds a value, since any value may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from models.config_agreement import Place, Problem, yaml_path
from models.config_fields import Unexpanded

_VARIABLE = re.compile(r"\$\$(?=\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_TAGGED = "begins with !, which has a meaning of its own in YAML: put the value in quotes"
_LARGEST_NUMBER = 400  # characters
_DEEPEST = 60
_MOST_VALUES = 1_000_000  # aliases of aliases can multiply a small file beyond all memory


@dataclass
class Document:
    """Plain data (dict, list, str, int, Decimal, bool, None) and what is known about where it stood.

    `lines` count from 1. `raw` holds the text before expansion where a variable was used. `problems` are found at places
    where the rest of the file could still be read.
    """

    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    raw: dict[Place, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, place: Place) -> int | None:
        """The line of a place, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)


class Unreadable(Exception):
    """The text is no YAML. `line` counts from 1, where it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Composes nodes only. Plain words mean what YAML 1.2 says: `no` is text, 2023-06-01 is text, 1e-3 is a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+", "-+0123456789"),
    ("merge", r"<<", "<"),
):
    _firsts = ["" if _letter == "\0" else _letter for _letter in _first]
    _Loader.add_implicit_resolver(_tag(_name), re.compile(rf"(?:{_pattern})\Z"), _firsts)


def read_document(text: str, environ: Mapping[str, str], may_stay: Callable[[Place], bool]) -> Document:
    """The data in `text`, ${VARIABLES} taken from `environ`.

    A variable that is unset or empty and has no default is a problem; where `may_stay` says so, the text is left as
    `Unexpanded` instead. Raises Unreadable.
    """
    document = Document()
    try:
        node = _Loader(_yaml_text(text)).get_single_node()
        if node is not None:
            reader = _Reader(document, environ, may_stay)
            document.data = reader.value(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        near = text.splitlines()[mark.line : mark.line + 1] if mark else []
        raise Unreadable(_syntax(error.problem or "", near), mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise Unreadable(f"holds a character that YAML doesn't allow (#x{error.character:04x})", line) from None
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    return document


def _yaml_text(text: str) -> str:
    """JSON may be indented by tabs, YAML may not; in JSON a raw tab stands only between values."""
    if text.lstrip()[:1] in ("{", "[") and "\t" in text:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return text
        return text.replace("\t", " ")
    return text


def _syntax(problem: str, line: list[str]) -> str:
    """What the YAML reader says, without what it quotes: a key that begins with * or ! would be quoted as an alias or a tag."""
    if line and re.search(r"[{,\[:]\s*\$\{", line[0]):
        return 'is no YAML: inside { } and [ ] a "${VARIABLE}" needs quotes'
    if r"'\t'" in problem:
        return "is no YAML: a tab stands where only blanks may"
    if any(word in problem for word in ("alias", "occurrence", "tag")):
        return "is no YAML: a value that begins with *, & or ! has to be in quotes"
    said = re.sub(r"'(?!<)[^']{2,}'|\"(?!<)[^\"]{2,}\"", "…", problem)
    return f"is no YAML: {said or 'it could not be read'}"


class _Reader:
    """Turns composed nodes into plain data; remembers lines and problems in the document."""

    def __init__(self, document: Document, environ: Mapping[str, str], may_stay: Callable[[Place], bool]) -> None:
        self.document = document
        self.environ = environ
        self.may_stay = may_stay
        self.values = 0

    def value(self, node: yaml.Node, place: Place, inside: tuple[int, ...]) -> Any:
        self.document.lines.setdefault(place, node.start_mark.line + 1)
        self.values += 1
        if id(node) in inside:
            return self.problem(place, "holds itself")
        if len(inside) > _DEEPEST or self.values > _MOST_VALUES:
            raise Unreadable("is nested too deeply or repeats itself too often", node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == _tag("map"):
            return self.mapping(node, place, (*inside, id(node)))
        if isinstance(node, yaml.SequenceNode) and node.tag == _tag("seq"):
            return [self.value(item, (*place, i), (*inside, id(node))) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, place)
        return self.problem(place, _TAGGED)

    def mapping(self, node: yaml.MappingNode, place: Place, inside: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        for key, content in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(place, "has a name that is no text")
                continue
            if key.tag == _tag("merge"):
                given = self.value(content, place, inside)
                merged += [part for part in (given if isinstance(given, list) else [given]) if isinstance(part, dict)]
                continue
            # All names in this tree are text: `4:` and `on:` mean the name as it is written.
            name = _whole_characters(key.value)
            below = (*place, name)
            if name in result:
                first = self.document.lines[below]
                self.document.lines[below] = key.start_mark.line + 1
                self.problem(below, f"is given twice (first on line {first}); only one can count")
                continue
            self.document.lines[below] = key.start_mark.line + 1
            result[name] = self.value(content, below, inside)
        for part in merged:
            result = {**part, **result}
        return result

    def scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text: str = node.value
        if node.tag == _tag("null"):
            return None
        if node.tag == _tag("bool"):
            return text.lower() == "true"
        if node.tag in (_tag("int"), _tag("float")):
            try:
                if len(text) > _LARGEST_NUMBER:
                    raise ValueError
                return int(text) if node.tag == _tag("int") else Decimal(text.replace("_", ""))
            except (ValueError, ArithmeticError):
                return self.problem(place, "is no number")
        if node.tag == _tag("str"):
            return self.expanded(_whole_characters(text), place)
        return self.problem(place, _TAGGED)

    def expanded(self, text: str, place: Place) -> str:
        if "${" not in text:
            return text
        self.document.raw[place] = text
        missing: list[str] = []

        def put(match: re.Match[str]) -> str:
            name = match["name"]
            if name is None:
                if match[0] == "${":
                    self.problem(
                        place, 'has a "${" that begins no ${VARIABLE}; write "$${" for the characters themselves'
                    )
                return "$" if match[0] == "$$" else match[0]
            value = self.environ.get(name) or match["default"]
            if value is None:
                missing.append(name)
                return match[0]
            return value

        result = _VARIABLE.sub(put, text)
        if not missing:
            return result
        if self.may_stay(place):
            return Unexpanded(text, tuple(dict.fromkeys(missing)), yaml_path(place))
        for name in dict.fromkeys(missing):
            state = "is set but empty" if name in self.environ else "is not set"
            self.problem(place, f"needs the environment variable {name}, which {state}")
        return text

    def problem(self, place: Place, what: str) -> None:
        self.document.problems.append((place, what))


def _whole_characters(text: str) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which YAML reads as two halves."""
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
