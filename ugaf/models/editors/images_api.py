"""The editor of a served diffusion model: `POST /v1/images/edits`, as vLLM-Omni and SGLang answer it.

A request is a multipart form: the picture as PNG, the prompt, and how to denoise. The answer is a PNG in JSON. How many
are on their way, tries, backoff, endpoints that are away and what stops the run are those of Chat
(`ugaf.models.chat.server_client`): one server, one behaviour.

vLLM-Omni: docs "Image Edit API" (its extension fields; `mask_image` is white where the model paints). SGLang: docs
"SGLang Diffusion OpenAI API"; it takes the same form, and no mask.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from ugaf.base.failure import Failure, each, through
from ugaf.base.needs import Needs
from ugaf.imaging import images
from ugaf.models.chat import chat_needs, transport
from ugaf.models.chat.reply import AnswerError, shown
from ugaf.models.chat.server_client import ServerClient
from ugaf.models.chat.transport import STEADY, Pace
from ugaf.models.editors import placement
from ugaf.models.editors.interface import Edit, EditRequest
from ugaf.models.editors.placement import PlacementSettings, Prepared, WorkingSize
from ugaf.models.servers import Servers
from ugaf.stage import Settings
from ugaf.stage.engines import ServerName

BATCH_ROWS = 16
"""Rows of one fragment in hand at once: with their photographs they are what fills a worker's memory."""

OURS = frozenset(
    {"model", "prompt", "image", "mask_image", "size", "n", "seed", "response_format", "output_format", "stream"}
)
"""Fields of the form that `extra` may not take over."""


class ImagesAPIEditor:
    """See the module. Requests in flight, tries and time-outs are those of the server's entry in `models:`."""

    version = 1

    class Settings(Settings):
        server: ServerName = Field(description="the entry of the pipeline's `models:` that serves the editing model")
        placement: PlacementSettings = Field(PlacementSettings(), description="how the target box reaches the model")
        inpaint: bool = Field(
            False,
            description="the served pipeline takes a mask (vLLM-Omni's `mask_image`); without a box it is all white",
        )
        area: int = Field(
            1024 * 1024,
            ge=64 * 64,
            description="pixels that the model is asked to work at, about; the aspect ratio stays",
        )
        multiple: int = Field(16, ge=1, description="both sides asked for are multiples of this")
        steps: int | None = Field(None, ge=1, description="denoising steps; null leaves them to the server")
        guidance_scale: float | None = Field(None, ge=0, description="guidance; null leaves it to the server")
        true_cfg_scale: float | None = Field(
            None, ge=0, description="classifier-free guidance of Qwen-Image-Edit; needs a negative_prompt above 1"
        )
        negative_prompt: str | None = Field(None, description='what to steer away from; " " for nothing in particular')
        strength: float | None = Field(None, ge=0, le=1, description="of inpainting; null leaves it to the server")
        extra: dict[str, str | int | float | bool] = Field(
            {}, description="further fields of the form, as the server takes them"
        )

        @field_validator("extra")
        @classmethod
        def _nothing_of_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
            taken = OURS.intersection(value)
            if taken:
                raise ValueError(f"{', '.join(sorted(taken))} cannot be set: the editor fills them in")
            return value

        @model_validator(mode="after")
        def _fits_together(self) -> ImagesAPIEditor.Settings:
            placement.check_way(self.placement, self.inpaint)
            # Without a negative prompt the servers leave the guidance out, and say nothing.
            if (self.true_cfg_scale or 0) > 1 and self.negative_prompt is None:
                raise ValueError(
                    'true_cfg_scale above 1 does nothing without a negative_prompt: give one, at least " "'
                )
            if self.area < self.multiple**2:
                raise ValueError(f"area {self.area} has no room for one multiple of {self.multiple} pixels squared")
            return self

    @classmethod
    def needs(cls, settings: Settings) -> Needs:  # noqa: ARG003
        """Those of Chat; a worker also resizes, encodes and decodes megapixels."""
        return replace(chat_needs(), cpus=1.0, batch_rows=BATCH_ROWS)

    def __init__(self, settings: Settings, servers: Servers, pace: Pace = STEADY) -> None:
        self.settings: Any = settings
        self._client = ImagesClient(servers[settings.server], pace)  # type: ignore[attr-defined]
        self.name = f"http:{self._client.model}"

    def edit(self, requests: Sequence[EditRequest]) -> list[Edit | Failure]:
        """One answer a request, in order. Raises StopRun if the server is gone, or refuses the key or the model."""
        working = WorkingSize(self.settings.area, self.settings.multiple)
        prepared: list[Prepared] = []

        def form(request: EditRequest) -> ImageForm:
            ready = placement.prepare(request, self.settings.placement, working, self.settings.inpaint)
            made = self._form(ready, request.seed)
            prepared.append(ready)
            return made

        def finished(forms: Iterator[ImageForm]) -> list[Edit | Failure]:
            return each(_finished, zip(self._client.ask(forms), prepared, strict=True))

        return through(form, requests, finished)

    def _form(self, prepared: Prepared, seed: int) -> ImageForm:
        given = self.settings
        width, height = prepared.size
        fields: dict[str, Any] = {
            "prompt": prepared.prompt,
            "size": f"{width}x{height}",
            "n": 1,
            # Every generator takes 31 bits.
            "seed": seed & 0x7FFFFFFF,
            "response_format": "b64_json",
            "output_format": "png",
            "num_inference_steps": given.steps,
            "guidance_scale": given.guidance_scale,
            "true_cfg_scale": given.true_cfg_scale,
            "negative_prompt": given.negative_prompt,
            "strength": given.strength,
            **given.extra,
        }
        if given.inpaint:
            mask = np.full((height, width), 255, np.uint8) if prepared.mask is None else prepared.mask
            fields["mask_image"] = "data:image/png;base64," + base64.b64encode(images.encode(mask)).decode("ascii")
        return ImageForm(
            {key: value for key, value in fields.items() if value is not None}, images.encode(prepared.image)
        )


@dataclass(frozen=True, eq=False)
class ImageForm:
    """One request: the form's fields, and its picture as PNG."""

    fields: Mapping[str, Any]
    png: bytes


class ImagesClient(ServerClient[ImageForm, ImageForm, np.ndarray]):
    """For each form the picture: RGB uint8 (height, width, 3), of any size."""

    path = "/images/edits"

    def prepare(self, request: ImageForm) -> ImageForm:
        return request

    async def exchange(self, client: Any, ready: ImageForm, attempt: int) -> Any:  # noqa: ARG002
        # The same seed in each attempt: what a row becomes must not hang on how often its answer was garbled.
        body = {"model": self.settings.name_in_requests, **ready.fields}
        files = {"image": ("image.png", ready.png, "image/png")}
        return await transport.post(client, self.path, body, self.settings.timeout_s, self.pace.connect_s, files)

    async def read(self, said: Any, ready: ImageForm, tries: int) -> np.ndarray:  # noqa: ARG002
        # Off the event loop, which serves everybody.
        return await asyncio.get_running_loop().run_in_executor(None, read_picture, said)


def read_picture(said: Any) -> np.ndarray:
    """The first picture of an answer's JSON: RGB uint8 (height, width, 3). Raises AnswerError saying what is wrong."""
    try:
        text = said["data"][0]["b64_json"]
        data = base64.b64decode(text, validate=True)
    except (LookupError, TypeError, binascii.Error) as error:
        raise AnswerError("BadAnswer", f"no data[0].b64_json in the answer ({error!r}): {shown(said)}") from error
    try:
        return images.decode(data)
    except images.ImageError as error:
        raise AnswerError("BadAnswer", f"the answer's picture cannot be read: {error}") from error


def _finished(answer: tuple[np.ndarray | Failure, Prepared]) -> Edit | Failure:
    picture, prepared = answer
    return picture if isinstance(picture, Failure) else placement.finish(prepared, picture)
