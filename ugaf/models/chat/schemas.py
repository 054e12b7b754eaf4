"""Answers as pydantic models: the text type of their fields, and the JSON schema that a server is given.

Servers that constrain an answer to a schema (vLLM with xgrammar, among others) need care with strings: without a
pattern, a model may write raw control characters and never end. `line` is the text type that works there.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, WithJsonSchema

# Written as characters, not as escapes (\x00, \u4e00): xgrammar takes literal ones in any number, but cannot compile
# more than 128 repetitions of a class that holds escapes other than \[ and \]. Left out: control characters, the double
# quote and the backslash (both would have to be escaped in JSON), and the line separators U+2028 and U+2029.
_CHARACTERS = " !#-\\[\\]-~\u00a0-\u2027\u202a-\ud7ff\ue000-\U0010ffff"
_FIRST = "!#-\\[\\]-~\u00a1-\u2027\u202a-\ud7ff\ue000-\U0010ffff"


def line(maximum: int) -> Any:
    """A type for a field: one line of text in any script, of 1 to `maximum` characters, not starting with a space.

    The JSON schema has a `pattern` and no `maxLength` (vLLM refuses the two together). A server that does not constrain
    its answers may write more than the pattern allows: white space of any kind becomes single spaces, quotes are kept.
    """
    if maximum < 1:
        raise ValueError(f"a line of at most {maximum} characters can hold nothing")

    def fits(text: str) -> str:
        if not text:
            raise ValueError("empty text")
        if len(text) > maximum:
            raise ValueError(f"{len(text)} characters, at most {maximum} are allowed")
        bad = next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")), None)
        if bad is not None:
            raise ValueError(f"the control character {bad!r} in a text")
        return text

    schema = {
        "type": "string",
        "description": f"one line of at most {maximum} characters",
        "pattern": f"^[{_FIRST}][{_CHARACTERS}]{{0,{maximum - 1}}}$",
    }
    return Annotated[str, BeforeValidator(_on_one_line), AfterValidator(fits), WithJsonSchema(schema)]


def _on_one_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


@functools.lru_cache(maxsize=256)
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with every reference replaced by what it names, and without titles and defaults.

    Servers differ in whether they follow `$ref`; none needs it for the small trees of our answers. All fields are
    required, as strict mode demands: an answer leaves nothing to defaults. Raises ValueError for a recursive model.
    """
    schema = model.model_json_schema()
    return _inlined(schema, schema.get("$defs", {}), ())


def _inlined(node: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions, inside) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = str(node["$ref"]).rsplit("/", 1)[-1]
        if name in inside:
            raise ValueError(f"{name} contains itself: a schema for a server must not be recursive")
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _inlined({**definitions[name], **beside}, definitions, (*inside, name))
    plain = {key: value for key, value in node.items() if key not in ("$defs", "title", "default", "properties")}
    done = {key: _inlined(value, definitions, inside) for key, value in plain.items()}
    if "properties" in node:
        # By themselves: a field of the model may be called `title` or `default`.
        fields = {key: _inlined(value, definitions, inside) for key, value in node["properties"].items()}
        done |= {"properties": fields, "required": list(fields), "additionalProperties": False}
    return done
