"""generation.edit: make the pair that each row describes, with the editor that the pipeline names.

The editor decides nothing but pixels: task, objects, parameters and words were chosen by `annotation.instruct`. Where
the photograph itself is the pair's source or target, no copy of it is stored (null). New pictures are stored without
loss unless `format` and `quality` say otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from ugaf import images, stage
from ugaf.models import registry
from ugaf.models.editor import Edit, EditObject, EditRequest
from ugaf.stage import Failure, Outcome, Row, RowError


class GenerateEdit(stage.Stage):
    """One edit a row. Fails a row whose edit cannot be made or would not be seen; see the editor's docs."""

    version = 1
    reads = ("image", "objects", "task", "instruction", "boxes", "params", "donor")
    refs: ClassVar[Mapping[str, tuple[str, ...]]] = {"donor": ("image", "objects")}
    writes = pa.schema(
        [
            ("source_image", pa.large_binary()),
            ("edited_image", pa.large_binary()),
            ("edit_mask", pa.large_binary()),
            ("editor", pa.string()),
        ]
    )
    seeded = True
    batch_rows = 8

    class Settings(stage.Settings):
        editor: dict[str, Any] = Field({"engine": "templates"}, description="the editor's engine and its options")
        format: Literal["png", "webp", "jpeg"] = Field(
            "png", description="of the pictures made: png and webp are lossless unless webp has a quality"
        )
        quality: int | None = Field(
            None, ge=1, le=100, description="of jpeg (95 if not set) or webp (lossless if not set); png has none"
        )

        @field_validator("editor")
        @classmethod
        def _known_editor(cls, value: dict[str, Any]) -> dict[str, Any]:
            return registry.check("editor", value)

        @model_validator(mode="after")
        def _quality_has_a_use(self) -> GenerateEdit.Settings:
            if self.format == "png" and self.quality is not None:
                raise ValueError("png is lossless and has no quality: leave `quality` out, or use jpeg or webp")
            return self

    def setup(self) -> None:
        self.editor = registry.build("editor", self.settings.editor)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        requests: dict[int, EditRequest] = {}
        for place, row in enumerate(rows):
            try:
                requests[place] = self._request(row)
            except Exception as error:
                outcomes[place] = Failure.of(error)
        answers = self.editor.edit(list(requests.values()))
        for place, answer in zip(requests, answers, strict=True):
            try:
                outcomes[place] = answer if isinstance(answer, Failure) else self._columns(answer)
            except Exception as error:
                outcomes[place] = Failure.of(error)
        return [outcomes[place] for place in range(len(rows))]

    def _request(self, row: Row) -> EditRequest:
        donor = self._donor(row)
        return EditRequest(
            photo=row.photo(),
            task=row["task"],
            instruction=row["instruction"],
            boxes=[tuple(box) for box in row["boxes"] or ()],
            params=_parse(row["params"]),
            objects=_objects(row),
            donor=donor.photo() if donor else None,
            donor_objects=_objects(donor) if donor else (),
            seed=int(self.rng(row).integers(2**63)),
        )

    def _donor(self, row: Row) -> Row | None:
        if row.get("donor") is None:
            return None
        donor = row.refs.get("donor")
        if donor is None:
            raise RowError(f"the donor photograph {row['donor']} is not in this fragment")
        return donor

    def _columns(self, edit: Edit) -> Mapping[str, Any]:
        def encoded(pixels: Any) -> bytes | None:
            return None if pixels is None else images.encode(pixels, self.settings.format, self.settings.quality)

        return {
            "source_image": encoded(edit.source),
            "edited_image": encoded(edit.edited),
            "edit_mask": None if edit.mask is None else images.encode_mask(edit.mask),
            "editor": f"{self.editor.name}/{self.editor.version}",
        }


def _parse(text: str | None) -> dict[str, Any]:
    try:
        params = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise RowError(f"params is not JSON ({error}): {text!r}") from error
    if not isinstance(params, dict):
        raise RowError(f"params is not a JSON object: {text!r}")
    return params


def _objects(row: Row) -> list[EditObject]:
    return [
        EditObject(
            tuple(item["box"]),
            images.decode_mask(item["mask"]) if item["mask"] is not None else None,
            item["label"],
        )
        for item in row["objects"] or ()
    ]
