"""Chooses edits for a photograph and says them: one photograph in, several (task, object, instruction) out.

FineEdit (section 3.1, "Data Annotation") lets a vision-language model write instructions from the box-annotated image.
Here *what* is asked and *how it is said* are apart: `ugaf.wording.asks` finds the edits that the photograph
allows, sampling proportions them over the tasks, and a writer puts each into words, so that instruction, box and the
editor's parameters cannot disagree.
"""

from __future__ import annotations

import functools
import json
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from ugaf import images, stage
from ugaf.errors import nearest
from ugaf.models import registry
from ugaf.stage import Failure, Outcome, Row
from ugaf.wording import asks, colours, naming, params, sampling
from ugaf.wording.asks import Ask, Donor, Options
from ugaf.wording.scene import MAX_JOINED, SIDE, SURE, Scene, Thing, borders_touched, joined_outlines
from ugaf.wording.writer import REGISTERS, Writer, WriteRequest, Written

DONOR_SIDE = 256
"""Longer side, pixels, at which a donor's picture is read for its colour."""

DEFAULT_TASKS: dict[str, float] = {
    "recolor": 14, "remove": 12, "add": 12, "replace": 10, "style": 9, "material": 9, "background": 9, "tone": 7,
    "text": 7, "restore": 5, "hybrid": 6,
}  # fmt: skip


class Instruct(stage.Stage):
    """Writes one row for each edit; `params` is checked by `ugaf.wording.params`."""

    version = 3
    reads = ("image", "width", "height", "objects")
    # A donor's `image` is read for its colour: the instruction has to say what is put in.
    peers = ("objects", "image", "width", "height")
    writes = pa.schema(
        [
            ("task", pa.string()),
            ("instruction", pa.string()),
            ("register", pa.string()),
            ("boxes", pa.list_(pa.list_(pa.int32()))),
            ("target", pa.string()),
            ("engine", pa.string()),
            ("params", pa.string()),
            ("donor", pa.string()),
            ("writer", pa.string()),
        ]
    )
    fans_out = True
    identity = ("boxes", "instruction", "engine")
    seeded = True

    class Settings(stage.Settings):
        edits_per_image: int = Field(
            4, ge=1, le=64, description="Edits asked of each photograph, as far as its objects allow."
        )
        tasks: dict[str, float] = Field(
            DEFAULT_TASKS,
            description="Weight of each task; the shares hold over the whole set. Tasks left out get none.",
        )
        registers: dict[str, float] = Field(
            {"detailed": 4, "concise": 4, "user": 2}, description="Weight of each register: detailed, concise, user."
        )
        engines: dict[str, float] = Field(
            {"templates": 1}, description="Weight of each generation engine that the edits are given to."
        )
        writer: dict[str, Any] = Field(
            {"engine": "templates"}, validate_default=True, description="Who words the instructions, and its options."
        )

        @field_validator("tasks", "registers", "engines")
        @classmethod
        def _weights(cls, value: dict[str, float], info: Any) -> dict[str, float]:
            known = {"tasks": params.TASKS, "registers": REGISTERS}.get(info.field_name)
            return _checked_weights(value, known)

        @field_validator("writer")
        @classmethod
        def _known_writer(cls, value: dict[str, Any]) -> dict[str, Any]:
            return registry.check("writer", value)

    settings: Settings

    def setup(self) -> None:
        self.writer: Writer = registry.build("writer", self.settings.writer)
        self._donor_photos: OrderedDict[str, np.ndarray] = OrderedDict()
        self._fragment: _Fragment | None = None

    def process(self, row: Row) -> Outcome:
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
        options = Options(scene, functools.cache(lambda position: self._donor(scene.things[position], row)))
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
                chosen.append(self._with_donor_described(ask, row))
        return chosen

    def _donor(self, target: Thing, row: Row) -> Donor | None:
        """An object of another photograph of the fragment for the target's place, not yet described."""
        if self._fragment is None or self._fragment.peers is not row.peers:
            self._fragment = _Fragment(row.peers)
        for peer, position in self._fragment.donors(target, row.id, self.seed):
            if self._fragment.is_whole(peer, position):
                return Donor(peer.id, position)
        return None

    def _with_donor_described(self, ask: Ask, row: Row) -> Ask:
        if ask.donor is None:
            return ask
        donor = ask.donor
        peer = next(peer for peer in row.peers if peer.id == donor.id)
        found = peer["objects"][donor.position]
        photo = self._donor_photo(peer)
        mask = images.decode_mask(found["mask"])
        size = (peer["width"], peer["height"])
        facts = naming.facts(
            donor.position, found["box"], found.get("label"), mask, photo, size, colours.name_indices(photo)
        )
        return replace(ask, donor=replace(donor, facts=facts))

    def _donor_photo(self, peer: Row) -> np.ndarray:
        """The donor's picture, small; the last ones are kept, for many rows of a fragment share a donor."""
        if peer.id not in self._donor_photos:
            self._donor_photos[peer.id] = images.decode(peer["image"], DONOR_SIDE)
            while len(self._donor_photos) > 32:
                self._donor_photos.popitem(last=False)
        return self._donor_photos[peer.id]


class _Fragment:
    """All objects of a fragment's photographs as arrays, so that a donor is looked for in microseconds.

    where: int (n, 2): position in the peers, position in its objects. sides: int (n, 2): width and height of the box,
    pixels. free: bool (n,): has a mask, and touches at most one border.
    """

    def __init__(self, peers: Sequence[Row]) -> None:
        self.peers = peers
        where: list[tuple[int, int]] = []
        sides: list[tuple[int, int]] = []
        free: list[bool] = []
        for i, peer in enumerate(peers):
            size = (peer["width"], peer["height"])
            for k, found in enumerate(peer["objects"] or ()):
                x1, y1, x2, y2 = found["box"]
                where.append((i, k))
                sides.append((x2 - x1, y2 - y1))
                free.append(bool(found.get("mask")) and borders_touched((x1, y1, x2, y2), size) <= 1)
        self.where = np.array(where, dtype=int).reshape(-1, 2)
        self.sides = np.array(sides, dtype=float).reshape(-1, 2)
        self.free = np.array(free, dtype=bool)
        self._joined: dict[str, list[float]] = {}
        self._ranked: tuple[str, int] | None = None
        self._ranks_of = np.zeros(len(peers))

    def donors(self, target: Thing, own: str, seed: int) -> Iterator[tuple[Row, int]]:
        """Objects of other photographs that fit in the target's place, the highest rendezvous hash first."""
        x1, y1, x2, y2 = target.box
        ranks = self._ranks(own, seed)
        fits = self.free & asks.fits(self.sides, (x2 - x1, y2 - y1)) & (ranks > 0)[self.where[:, 0]]
        found = self.where[fits]
        for i, k in found[np.lexsort((found[:, 1], -ranks[found[:, 0]]))]:
            yield self.peers[i], int(k)

    def is_whole(self, peer: Row, position: int) -> bool:
        """Whether an object can stand alone: surely one, with a plausible outline, and not a part of another."""
        if peer.id not in self._joined:
            self._joined[peer.id] = joined_outlines(peer["objects"], (peer["width"], peer["height"]))
        found = peer["objects"][position]
        mask = images.decode_mask(found["mask"])
        sure = bool(found.get("label")) or (found.get("score") or 0.0) >= SURE
        alone = self._joined[peer.id][position] <= MAX_JOINED
        return sure and alone and bool(mask.size) and asks.is_outline(float(mask.mean()))

    def _ranks(self, own: str, seed: int) -> np.ndarray:
        """Rank of each photograph as the donor of `own`, float in (0, 1]; 0 for itself."""
        if self._ranked != (own, seed):
            ranks = [0.0 if peer.id == own else asks.rank(seed, own, peer.id) for peer in self.peers]
            self._ranked, self._ranks_of = (own, seed), np.array(ranks)
        return self._ranks_of


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
