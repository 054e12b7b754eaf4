"""Chooses edits for a photograph and says them: one photograph in, several (task, object, instruction) out.

FineEdit (section 4.1, "Data Annotation") lets a vision-language model write instructions from the box-annotated image.
Sampling proportions the edits over the tasks; who says them, a setting tells:

- A `Writer` (templates) only puts into words. *What* is asked is apart: `ugaf.wording.asks` finds the edits that the
  photograph allows, so that instruction, box and the editor's parameters cannot disagree.
- A `Composer` (vlm) looks at the photograph itself. `ugaf.wording.layout` chooses the task and marks the object; the
  model decides what to ask for, and may decline.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from ugaf import stage
from ugaf.base.errors import nearest
from ugaf.base.failure import Failure, attempt
from ugaf.stage import Outcome, Row
from ugaf.stage.engines import WriterSpec, build, engine_class
from ugaf.wording import asks, layout, sampling
from ugaf.wording.asks import Ask, Options
from ugaf.wording.composing import Assignment, Brief, Composed, Composer
from ugaf.wording.donors import Donors
from ugaf.wording.scene import SIDE, Scene
from ugaf.wording.writer import REGISTERS, Writer, WriteRequest, Written

TRANSPORT = frozenset({"ServerError", "ServerBusy", "TimedOut", "Disconnected", "Unreachable"})
"""Failures of a request in which the server was at fault, not the question: asked again, it may well be answered."""


class Instruct(stage.Stage):
    """Writes one row for each edit. A Writer's `params` are checked by `ugaf.wording.params`.

    Of a Composer's requests, one that fails costs no other: the photograph's edits say how many did
    (`writer_failed`), how many the model turned down (`writer_declined`), and what was said of both
    (`writer_notes`). The photograph itself is failed if no edit came and a request failed, or if a server's fault kept
    one from being answered, so that `--retry-failed` asks again. "No edit was possible" means that the model turned
    every one down. A request's tokens are split over its edits so that they add up; what a
    declined one took is split over all edits of its photograph.
    """

    version = 4
    reads = ("image", "width", "height", "objects")
    # A donor's `image` is read for its colour: the instruction has to say what is put in.
    peers = ("objects", "image", "width", "height")
    writes: ClassVar = {
        "task": stage.Column(str, "one of the writer's tasks"),
        "instruction": stage.Column(str, "in English", text=True),
        "instruction_cn": stage.Column(str, "the same in Chinese, where the writer was asked for it", text=True),
        "register": stage.Column(str, "`detailed`: the fullest name and a sentence on what stays. `concise`"),
        "boxes": stage.Column(pa.list_(pa.list_(pa.int32())), "target boxes; two for hybrid"),
        "target": stage.Column(str, "the object's name as used; empty for a global edit, both with '; ' for hybrid"),
        "engine": stage.Column(str, "the engine that the edit is given to"),
        "params": stage.Column(str, "JSON, checked by the models in `ugaf/wording/params.py`", text=True),
        "donor": stage.Column(str, "id of the photograph that an object is taken from (replace), or null", text=True),
        "writer": stage.Column(str, "who worded it: `templates`, `vlm:MODEL`"),
        "writer_tokens_in": stage.Column(pa.int32(), "tokens of the request, split over its edits so that they add up"),
        "writer_tokens_out": stage.Column(pa.int32(), "the same of the answer"),
        "writer_thinking": stage.Column(str, "what a reasoning model thought, on the request's first edit", text=True),
        "writer_failed": stage.Column(pa.int32(), "requests about this photograph that failed"),
        "writer_declined": stage.Column(pa.int32(), "requests about it that the model turned down"),
        "writer_notes": stage.Column(str, "what was said of both, a line each, or null", text=True),
    }
    identity = ("boxes", "instruction", "engine")
    seeded = True

    class Settings(stage.Settings):
        # Before `tasks`, which is checked against what it offers.
        writer: WriterSpec = Field({"engine": "templates"}, description="Who writes the instructions, and its options.")
        edits_per_image: int = Field(
            4, ge=1, le=64, description="Edits asked of each photograph, as far as its objects allow."
        )
        tasks: dict[str, float] = Field(
            {},
            description="Weight of each task; the shares hold over the whole set. Tasks left out get none; {} takes "
            "the writer's own weights.",
        )
        registers: dict[str, float] = Field(
            {"detailed": 4, "concise": 4, "user": 2}, description="Weight of each register: detailed, concise, user."
        )
        engines: dict[str, float] = Field(
            {"templates": 1}, description="Weight of each generation engine that the edits are given to."
        )

        @field_validator("tasks", "registers", "engines")
        @classmethod
        def _weights(cls, value: dict[str, float], info: Any) -> dict[str, float]:
            if info.field_name != "tasks":
                return _checked_weights(value, REGISTERS if info.field_name == "registers" else None)
            if "writer" not in info.data:  # it was wrong, which is told already
                return value
            offered = _offered(info.data["writer"])
            return _checked_weights(value or offered, tuple(offered))

    settings: Settings

    @classmethod
    def offers(cls, settings: Any) -> Mapping[str, Sequence[str]]:
        return {"engine": [name for name, weight in settings.engines.items() if weight > 0]}

    def setup(self) -> None:
        self.writer: Writer | Composer = build("writer", self.settings.writer, self.servers)
        self._donors = Donors()

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        if not isinstance(self.writer, Composer):
            return super().__call__(rows)
        outcomes: list[Outcome] = [[] for _ in rows]
        asked: dict[int, Assignment] = {}
        each = self.writer.instructions_per_request
        for number, row in enumerate(rows):
            assignment = attempt(lambda one: self._assignment(one, each), row)
            if isinstance(assignment, Failure):
                outcomes[number] = assignment
            elif assignment.briefs:
                asked[number] = assignment
        composed = self.writer.compose(list(asked.values())) if asked else []
        for (number, assignment), answers in zip(asked.items(), composed, strict=True):
            outcomes[number] = self._composed(rows[number], assignment, answers)
        return outcomes

    def _assignment(self, row: Row, each: int) -> Assignment:
        """What a Composer is asked about a photograph."""
        places = layout.Layout(row.id, (row["width"], row["height"]), row["objects"])
        settings, rng = self.settings, self.rng(row, "wording")
        plans = layout.choose(places, settings.tasks, settings.edits_per_image, each, self.rng(row, "choice"))
        briefs = []
        for plan, number in plans:
            registers = tuple(sampling.choose(settings.registers, rng) for _ in range(number))
            briefs.append(Brief(plan, registers, int(rng.integers(2**31))))
        return Assignment(row["image"], places, row.get("caption") or "", tuple(briefs))

    def _composed(self, row: Row, assignment: Assignment, answers: Sequence[Composed | Failure]) -> Outcome:
        """A photograph's edits, from the answers to its briefs."""
        rng = self.rng(row, "engines")
        notes, failures, declined = [], [], []
        groups: list[tuple[Composed, list[dict[str, Any]]]] = []
        seen: set[tuple[str, str, str]] = set()
        for brief, answer in zip(assignment.briefs, answers, strict=True):
            engines = [sampling.choose(self.settings.engines, rng) for _ in brief.registers]
            if isinstance(answer, Failure):
                failures.append(answer)
                notes.append(f"{_named(brief)} failed: {answer}")
                continue
            if not answer.edits:
                declined.append(answer)
                notes.append(f"{_named(brief)} declined: {answer.declined}")
            children = [
                self._composed_child(brief, number, answer, engine)
                for number, (_, engine) in enumerate(zip(answer.edits, engines, strict=False))
            ]
            keys = [(str(child["boxes"]), child["instruction"], child["engine"]) for child in children]
            new = [child for child, key in zip(children, keys, strict=True) if key not in seen]
            seen.update(keys)
            groups.append((answer, new))
        every = [child for _, children in groups for child in children]
        if not every:
            return _together(failures) if failures else []
        away = [failure for failure in failures if failure.type in TRANSPORT]
        if away:
            # Not said by the model: asked again with --retry-failed, which a photograph with edits never would be.
            return _together(away)
        _share_tokens(groups, every)
        told = {
            "writer_failed": len(failures),
            "writer_declined": len(declined),
            "writer_notes": "\n".join(notes) or None,
        }
        return [{**child, **told} for child in every]

    def _composed_child(self, brief: Brief, number: int, answer: Composed, engine: str) -> dict[str, Any]:
        edit = answer.edits[number]
        assert isinstance(self.writer, Composer)
        return {
            **dict.fromkeys(self.schema.names),
            "task": brief.plan.task,
            "instruction": edit.instruction,
            "instruction_cn": edit.instruction_cn,
            "register": brief.registers[number],
            "boxes": [list(box) for box in brief.plan.boxes],
            "target": edit.target,
            "engine": engine,
            "writer": self.writer.writer,
        }

    def process(self, row: Row) -> Outcome:
        if isinstance(self.writer, Composer):
            return self([row])[0]
        scene = self.scene(row)
        chosen = self._choose(scene, row)
        if not chosen:
            return []
        rng = self.rng(row, "wording")
        registers = [sampling.choose(self.settings.registers, rng) for _ in chosen]
        engines = [sampling.choose(self.settings.engines, rng) for _ in chosen]
        requests = [
            WriteRequest(ask, register, rng, scene.photo) for ask, register in zip(chosen, registers, strict=True)
        ]
        written = self.writer.write(requests)
        children: dict[tuple[str, str, str], dict[str, Any]] = {}
        for request, answer, engine in zip(requests, written, engines, strict=True):
            if isinstance(answer, Failure):
                return answer
            child = self._child(request, answer, engine)
            children.setdefault((str(child["boxes"]), child["instruction"], engine), child)
        return list(children.values())

    def scene(self, row: Row) -> Scene:
        """The photograph as the choice of edits sees it."""
        return Scene(row.id, row.photo(SIDE), (row["width"], row["height"]), row["objects"])

    def _child(self, request: WriteRequest, written: Written, engine: str) -> dict[str, Any]:
        ask = request.ask
        return {
            **dict.fromkeys(self.schema.names),
            "task": ask.task,
            "instruction": written.instruction,
            "register": request.register,
            "boxes": [list(box) for box in ask.boxes],
            "target": written.target,
            "engine": engine,
            "params": json.dumps(ask.params, sort_keys=True),
            "donor": ask.donor.id if ask.donor else None,
            "writer": self.writer.name,
        }

    def _choose(self, scene: Scene, row: Row) -> list[Ask]:
        """The edits of one photograph: different tasks as far as the weights allow, spread over its objects."""
        wanted = self.settings.edits_per_image
        weights = self.settings.tasks
        options = Options(
            scene, functools.cache(lambda position: self._donors.find(scene.things[position], row, self.seed))
        )
        positive = sum(1 for weight in weights.values() if weight > 0)
        at_most = -(-wanted // positive)
        capacity = {task: min(n, at_most) for task, n in options.capacity.items()}
        rng = self.rng(row, "choice")
        counts = sampling.allocate(weights, capacity, wanted, rng)
        chosen: list[Ask] = []
        used: list[int] = []
        for task, count in counts.items():
            free = list(options.slots[task])
            for _ in range(count):
                slot = _draw(free, [options.weight(s, used) if task != "text" else 1.0 for s in free], rng)
                free.remove(slot)
                ask = asks.make(task, slot, options, rng)
                used.extend(thing.position for thing in ask.targets)
                chosen.append(self._donors.described(ask, row))
        return chosen


def _share_tokens(groups: Sequence[tuple[Composed, Sequence[dict[str, Any]]]], every: list[dict[str, Any]]) -> None:
    """Write each request's tokens and thinking onto its edits; those of a request without edits onto all."""
    for child in every:
        child["writer_tokens_in"] = child["writer_tokens_out"] = 0
    for answer, children in groups:
        bearing = children or every
        for column, total in (("writer_tokens_in", answer.tokens_in), ("writer_tokens_out", answer.tokens_out)):
            share, rest = divmod(total, len(bearing))
            for number, child in enumerate(bearing):
                child[column] += share + (number < rest)
        if children:
            children[0]["writer_thinking"] = answer.thinking or None


def _together(failures: Sequence[Failure]) -> Failure:
    """The failure of a photograph of which no request brought an edit."""
    said = list(dict.fromkeys(failure.message for failure in failures))
    if len(said) == 1:
        return failures[0]
    return Failure(failures[0].type, f"{len(failures)} requests failed: {'; '.join(said)}")


def _named(brief: Brief) -> str:
    """ "recolor of the dog", for notes."""
    labels = [target.label or f"object {target.position}" for target in brief.plan.targets]
    return f"{brief.plan.task} of {' and '.join(labels)}" if labels else brief.plan.task


def _offered(spec: Mapping[str, Any]) -> dict[str, float]:
    """The tasks that a writer offers, with its own weights."""
    writer = engine_class("writer", spec)
    usual = layout.offered() if hasattr(writer, "compose") else asks.WEIGHTS
    return dict(getattr(writer, "tasks", usual))


def _draw(options: list[Hashable], weights: list[float], rng: np.random.Generator) -> Hashable:
    share = np.array(weights) / sum(weights)
    return options[int(rng.choice(len(options), p=share))]


def _checked_weights(value: Mapping[str, float], known: tuple[str, ...] | None) -> dict[str, float]:
    for name, weight in value.items():
        if known is not None and name not in known:
            raise ValueError(f"unknown name {name!r}{nearest(name, known)}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight of {name!r} must be a number >= 0, not {weight}")
    if not any(weight > 0 for weight in value.values()):
        raise ValueError("at least one weight must be above 0")
    return dict(value)
