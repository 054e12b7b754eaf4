"""generation.edit: make the pair that each row describes, with the editor that the pipeline names.

One editor makes all (`editor`), or several share the rows (`editors`): each row's `engine`, which
`annotation.instruct` drew by weight, names its own. Editors of a mix are lanes: each runs in workers of its own, so
that no GPU holds two models.

The editor decides nothing but pixels: task, objects, parameters and words were chosen by `annotation.instruct`. Where
the photograph itself is the pair's source or target, no copy of it is stored (null). New pictures are stored without
loss unless `format` and `quality` say otherwise.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator

from ugaf import stage
from ugaf.base.errors import nearest
from ugaf.base.failure import each, through
from ugaf.base.needs import Needs, together
from ugaf.imaging import images
from ugaf.models.editors.interface import Edit, EditObject, Editor, EditRequest
from ugaf.stage import Failure, Outcome, Row, RowError, engines
from ugaf.stage.engines import EngineOf

ONLY = ""
"""Key of the editor that `editor` names."""


def _checked(spec: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if spec is None else engines.check("editor", spec)


def _all_checked(specs: dict[str, dict[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
    return None if specs is None else {name: engines.check("editor", spec) for name, spec in specs.items()}


# The types of `ugaf.stage.engines`, but for None: a mark inside of a union is not among the field's metadata.
OneEditor = Annotated[dict[str, Any] | None, EngineOf("editor"), AfterValidator(_checked)]
SeveralEditors = Annotated[
    dict[str, dict[str, Any]] | None, EngineOf("editor", many=True), AfterValidator(_all_checked)
]


class GenerateEdit(stage.Stage):
    """One edit a row. Fails a row whose edit cannot be made or would not be seen; see the editor's docs.

    `edit_way` says how the target box was told to a model (`ugaf.models.editors.placement`); null for `templates`.
    """

    version = 2
    reads = ("image", "objects", "task", "instruction", "boxes", "params", "donor")
    refs: ClassVar[Mapping[str, tuple[str, ...]]] = {"donor": ("image", "objects")}
    writes: ClassVar = {
        "source_image": stage.Column(pa.large_binary(), "null: the photograph itself is the pair's source"),
        "edited_image": stage.Column(pa.large_binary(), "null: the photograph itself is the pair's target"),
        "edit_mask": stage.Column(pa.large_binary(), "1-bit PNG of the photograph's size"),
        "editor": stage.Column(str, "engine, model and version"),
        "edit_way": stage.Column(str, "how the target box reached a model, see placement; null from `templates`"),
    }
    seeded = True
    lane_column = "engine"

    class Settings(stage.Settings):
        editor: OneEditor = Field({"engine": "templates"}, description="the editor's engine and its options")
        editors: SeveralEditors = Field(
            None,
            description="instead of `editor`: several by name; a row's `engine` (of annotation.instruct) names its own",
        )
        format: Literal["png", "webp", "jpeg"] = Field(
            "png", description="of the pictures made: png and webp are lossless unless webp has a quality"
        )
        quality: int | None = Field(
            None, ge=1, le=100, description="of jpeg (95 if not set) or webp (lossless if not set); png has none"
        )

        @model_validator(mode="before")
        @classmethod
        def _a_mix_takes_the_default_away(cls, given: Any) -> Any:
            if isinstance(given, Mapping) and given.get("editors") is not None and "editor" not in given:
                return {**given, "editor": None}
            return given

        @model_validator(mode="after")
        def _one_or_several(self) -> GenerateEdit.Settings:
            if self.editors is not None and self.editor is not None:
                raise ValueError("give either `editor` or `editors`, not both")
            if not self.editors and self.editor is None:
                raise ValueError(
                    "name an editor (`editor: {engine: ...}`), or several (`editors: {NAME: {engine: ...}}`)"
                )
            return self

        @model_validator(mode="after")
        def _quality_has_a_use(self) -> GenerateEdit.Settings:
            if self.format == "png" and self.quality is not None:
                raise ValueError("png is lossless and has no quality: leave `quality` out, or use jpeg or webp")
            return self

    settings: Settings

    @classmethod
    def needs(cls, settings: Settings, lane: str | None = None) -> Needs:
        reads = ("engine",) if settings.editors else ()
        found = together([super().needs(settings, lane), Needs(reads=reads)]).by_rows(8)
        if lane is None:
            return found
        # Engines speak of the setting `editor`.
        return replace(found, without_gpu=found.without_gpu.replace("editor.", f"editors.{lane}.", 1))

    @classmethod
    def lanes(cls, settings: Settings) -> tuple[str, ...]:
        return tuple(settings.editors or ())

    def setup(self) -> None:
        self._specs: dict[str, dict[str, Any]] = self.settings.editors or {ONLY: self.settings.editor or {}}
        self._editors: dict[str, Editor] = {}
        self._building = threading.Lock()
        # A model that does not load says so before the first row. Only where one worker does the rows of a whole mix
        # is an editor built when a row first asks for it: those that no row asks for are not loaded.
        if self.lane is not None:
            self._editor(self.lane)
        elif ONLY in self._specs:
            self._editor(ONLY)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        names = each(self._name, rows)
        outcomes: dict[int, Outcome] = {place: name for place, name in enumerate(names) if isinstance(name, Failure)}
        for name in dict.fromkeys(name for name in names if isinstance(name, str)):
            places = [place for place, other in enumerate(names) if other == name]
            outcomes.update(zip(places, self._edit(self._editor(name), [rows[place] for place in places]), strict=True))
        return [outcomes[place] for place in range(len(rows))]

    def _edit(self, editor: Editor, rows: Sequence[Row]) -> Sequence[Outcome]:
        def columns(answer: Edit | Failure) -> Outcome:
            return answer if isinstance(answer, Failure) else self._columns(editor, answer)

        return each(columns, through(self._request, rows, lambda requests: editor.edit(list(requests))))

    def _name(self, row: Row) -> str:
        """The name of the row's editor."""
        if ONLY in self._specs:
            return ONLY
        name = row["engine"]
        if name not in self._specs:
            raise RowError(f"no editor is named {name!r}, as the row's engine is{nearest(str(name), self._specs)}")
        return str(name)

    def _editor(self, name: str) -> Editor:
        with self._building:
            if name not in self._editors:
                self._editors[name] = engines.build("editor", self._specs[name], self.servers)
            return self._editors[name]

    def _request(self, row: Row) -> EditRequest:
        donor = self._donor(row)
        return EditRequest(
            photo=row.photo(),
            task=row["task"],
            instruction=row["instruction"] or "",
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

    def _columns(self, editor: Editor, edit: Edit) -> Mapping[str, Any]:
        def encoded(pixels: Any) -> bytes | None:
            return None if pixels is None else images.encode(pixels, self.settings.format, self.settings.quality)

        return {
            "source_image": encoded(edit.source),
            "edited_image": encoded(edit.edited),
            "edit_mask": None if edit.mask is None else images.encode_mask(edit.mask),
            "editor": f"{editor.name}/{editor.version}",
            "edit_way": edit.way,
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
