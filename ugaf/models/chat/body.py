"""A ChatRequest as the body of `POST /v1/chat/completions`."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import cv2

from ugaf.base import chance
from ugaf.imaging import images
from ugaf.models.chat.schemas import json_schema
from ugaf.models.chat.types import ChatRequest, Message, Picture, Sampling

JPEG_QUALITY = 92


def body_of(request: ChatRequest, model: str, structured: str) -> dict[str, Any]:
    """The body of the first try; `reseeded` makes those of further ones. Pictures are encoded here.

    structured: "json_schema" gives the server the schema; "json_object" asks it for JSON and tells the model the schema
    in words, at the end of the last user message; "none" only tells it in words.
    """
    messages = list(request.messages)
    options: dict[str, Any] = {}
    if request.schema is not None:
        if structured == "json_schema":
            name = re.sub(r"[^A-Za-z0-9_-]", "_", request.schema.__name__)[:64]
            strict = {"name": name, "strict": True, "schema": json_schema(request.schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": strict}
        else:
            messages = _with_words(messages, _in_words(request))
            if structured == "json_object":
                options["response_format"] = {"type": "json_object"}
    body = {"model": model, "messages": [_message(message) for message in messages], **_sampling(request.sampling)}
    return {**body, **options, **request.extra}


def reseeded(body: dict[str, Any], seed: int, attempt: int) -> dict[str, Any]:
    """The same question with the seed of that attempt (0 is the first, with `seed` itself)."""
    return {**body, "seed": seed_of(seed, attempt)}


def seed_of(seed: int, attempt: int) -> int:
    """0..2^31-1 for attempts after the first, so that any server takes it."""
    return chance.seed(f"{seed}/{attempt}") if attempt else seed


def data_url(picture: Picture) -> str:
    """The picture, reduced to its `side` by area averaging, as a data URL."""
    pixels, kind = picture.pixels, picture.format
    if kind not in ("jpeg", "png"):
        raise ValueError(f"a picture is sent as jpeg or png, not {kind!r}")
    if picture.side is not None:
        height, width = pixels.shape[:2]
        size = images.fit(width, height, picture.side)
        if size != (width, height):
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    data = images.encode(pixels, "jpeg", JPEG_QUALITY) if kind == "jpeg" else images.encode(pixels, "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _sampling(sampling: Sampling) -> dict[str, Any]:
    given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    fields = {key: value for key, value in given.items() if value is not None}
    fields |= {"max_tokens": sampling.max_tokens, "seed": sampling.seed}
    if sampling.top_logprobs:
        fields |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return fields


def _message(message: Message) -> dict[str, Any]:
    # Chat templates of models without vision take a plain string only.
    if all(isinstance(part, str) for part in message.parts):
        return {"role": message.role, "content": "\n".join(str(part) for part in message.parts)}
    return {"role": message.role, "content": [_part(part) for part in message.parts]}


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": data_url(part)}}


def _in_words(request: ChatRequest) -> str:
    assert request.schema is not None
    # Patterns are for machines; the length that they bound stands in the field's description.
    schema = json.dumps(_without_patterns(json_schema(request.schema)), ensure_ascii=False)
    return f"Answer with one JSON object and nothing else. It has to fit this JSON schema:\n{schema}"


def _without_patterns(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_patterns(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if key not in ("pattern", "properties")}
    done = {key: _without_patterns(value) for key, value in kept.items()}
    if "properties" in node:
        done["properties"] = {key: _without_patterns(value) for key, value in node["properties"].items()}
    return done


def _with_words(messages: list[Message], words: str) -> list[Message]:
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None:
        return [*messages, Message("user", (words,))]
    changed = Message("user", (*messages[last].parts, words))
    return [*messages[:last], changed, *messages[last + 1 :]]
