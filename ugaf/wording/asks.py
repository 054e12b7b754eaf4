"""What is asked: the edits that a photograph allows, and the parameters that make each of them.

A task offers *slots*, the different ways it could be done in this photograph (an object, a tone, a place for text).
`make` turns one slot into an `Ask`. Nothing here knows how it will be said.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ugaf.base import chance
from ugaf.imaging import boxes
from ugaf.wording import colours, params
from ugaf.wording.naming import Facts
from ugaf.wording.scene import Scene, Thing

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (200, 30, 38), "orange": (240, 125, 20), "yellow": (245, 205, 30), "green": (40, 145, 60),
    "teal": (0, 145, 145), "blue": (35, 90, 200), "purple": (125, 50, 165), "pink": (240, 130, 180),
    "brown": (115, 70, 35),
}  # fmt: skip
"""Target colours of recolor; each is what `colours.basic_name` calls it."""
CLEAR = 38.0
"""CIE76 difference that a recoloured object must at least have from its old mean colour."""
DARK, BRIGHT = 24.0, ("yellow", "orange", "pink")
"""An object of CIELAB L under DARK keeps too much of its shade to become one of the BRIGHT colours."""
MAX_REMOVED = 0.2
"""Box area (share of the image) up to which inpainting is asked to fill the hole."""
MAX_REPLACED = 0.28
"""Area of the mask (share of the image) up to which an object is replaced: what it hid is filled first."""
BACKGROUND = (0.1, 0.6)
"""Box area (share of the image) of an object whose background is changed."""
ASPECT_RANGE = 1.5
"""A donor's aspect ratio is at most this many times the target's, or the reverse."""
MIN_DONOR = 0.6
"""A donor is at least this share of the target's size in pixels, so that it need not be enlarged much."""

WORDS = (
    "OPEN", "CLOSED", "SALE", "HELLO", "WELCOME", "COFFEE", "MUSIC", "SUMMER", "WINTER", "HOME", "DREAM", "TRAVEL",
    "FRESH", "NEW", "ENJOY", "SMILE", "LOVE", "FREE", "EXIT", "START", "GARDEN", "MARKET", "HOTEL", "BAKERY",
    "BOOKS", "CINEMA", "2026", "NO. 7", "TODAY", "THANK YOU", "GOOD DAY", "ON AIR",
)  # fmt: skip
LETTER_WIDTH = {"simplex": 0.61, "duplex": 0.62, "triplex": 0.69, "complex": 0.68, "script": 0.71}
"""By font, the mean width of a capital as a share of the line's height."""
LIGHT_INKS, DARK_INKS = ("white", "yellow"), ("black", "blue", "red")


@dataclass(frozen=True)
class Donor:
    """An object of another photograph. facts: its measurements, once its picture was looked at."""

    id: str
    position: int
    facts: Facts | None = None


@dataclass(frozen=True)
class Ask:
    """One edit as data. targets: the objects it touches, in the order of `boxes` (the kept object for background)."""

    task: str
    params: dict[str, Any]
    boxes: tuple[boxes.Box, ...] = ()
    targets: tuple[Thing, ...] = ()
    donor: Donor | None = None
    size: tuple[int, int] = (1, 1)
    operations: tuple[Ask, ...] = ()


WEIGHTS: dict[str, float] = {
    "recolor": 14, "remove": 12, "add": 12, "replace": 10, "style": 9, "material": 9, "background": 9, "tone": 7,
    "text": 7, "restore": 5, "hybrid": 6,
}  # fmt: skip
"""Of the tasks of `Options`, by default."""

DonorOf = Callable[[int], Donor | None]
"""From an object's position to its donor, if there is one."""


@dataclass(frozen=True)
class Options:
    """What an image offers, by task. Slots are in no order of merit; `weight` tells which are better."""

    scene: Scene
    donor_of: DonorOf

    @functools.cached_property
    def slots(self) -> dict[str, list[Hashable]]:
        scene = self.scene
        targets = [thing for thing in scene.things if thing.targetable]
        cut = [t for t in targets if t.whole and t.borders <= 1 and t.facts.place.area <= MAX_REMOVED]
        fillable = [t for t in targets if t.whole and t.facts.place.area * (t.fill or 1.0) <= MAX_REPLACED]
        backdrop = [t for t in targets if t.whole and BACKGROUND[0] <= t.facts.place.area <= BACKGROUND[1] and t.fill]
        slots: dict[str, list[Hashable]] = {
            "recolor": [t.position for t in targets if len(t.facts.colour.names) == 1],
            "remove": [t.position for t in cut],
            "add": [t.position for t in cut if describable(t)],
            "replace": [t.position for t in fillable if self.donor_of(t.position) is not None],
            "style": [t.position for t in targets],
            "material": [t.position for t in targets],
            "background": [t.position for t in backdrop],
            "tone": [tone for tone in params.TONES if tone not in scene.tones_there],
            "text": [i for i, _ in enumerate(scene.calm_boxes)],
            "restore": [kind for kind in params.DEGRADATIONS if kind not in scene.unrestorable],
        }
        slots["hybrid"] = [
            (a.position, b.position)
            for a in targets
            for b in targets
            if a.position < b.position and not boxes.intersection(a.box, b.box)
        ]
        return slots

    @property
    def capacity(self) -> dict[str, int]:
        return {task: len(slots) for task, slots in self.slots.items()}

    def weight(self, slot: Hashable, used: Sequence[int]) -> float:
        """How much a slot is wanted: objects by the square of their score, and an object used before at a fifth."""
        if isinstance(slot, str):
            return 1.0
        positions = slot if isinstance(slot, tuple) else (slot,)
        weight = 1.0
        for position in positions:
            score = self.scene.things[position].score if position < len(self.scene.things) else 1.0
            weight *= (0.1 + score) ** 2 * (0.2 if position in used else 1.0)
        return weight


def describable(thing: Thing) -> bool:
    """An object that can be asked for where it is not yet: it has a look, and a place to go."""
    return bool((thing.facts.label or thing.facts.colour.phrase) and thing.facts.place.side)


def make(task: str, slot: Any, options: Options, rng: np.random.Generator) -> Ask:
    """The edit of a task for one of its slots; random parameters come from `rng`."""
    scene = options.scene
    size = (scene.width, scene.height)
    if task == "hybrid":
        return _hybrid([scene.things[position] for position in slot], size, rng)
    if task == "tone":
        return Ask(task, {"tone": slot}, size=size)
    if task == "restore":
        return Ask(task, {"degradation": slot, "strength": round(float(rng.uniform(0.35, 0.9)), 2)}, size=size)
    if task == "text":
        return _text(scene, slot, rng)
    thing = scene.things[slot]
    ask = _object_ask(task, thing, size, rng)
    if task == "replace":
        donor = options.donor_of(slot)
        if donor is None:
            raise ValueError(f"object {slot} has no donor, so it is no slot of replace")
        return Ask(task, {"object": slot, "donor_object": donor.position}, (thing.box,), (thing,), donor, size)
    if task == "background":
        choices = [b for b in params.BACKGROUNDS if b != "greyscale" or "black and white" not in scene.tones_there]
        return Ask(task, {"object": slot, "background": _pick(choices, rng)}, (), (thing,), None, size)
    return ask


def _object_ask(task: str, thing: Thing, size: tuple[int, int], rng: np.random.Generator) -> Ask:
    values: dict[str, Any] = {"object": thing.position}
    if task == "recolor":
        colour = new_colour(thing.facts, rng)
        values |= {"colour": colour, "rgb": list(PALETTE[colour]), "from": " and ".join(thing.facts.colour.names)}
    elif task == "style":
        values["style"] = _pick(params.STYLES, rng)
    elif task == "material":
        values["material"] = _pick(params.MATERIALS, rng)
    return Ask(task, values, (thing.box,), (thing,), None, size)


def new_colour(facts: Facts, rng: np.random.Generator) -> str:
    """A palette colour that nobody would call the object's own: other name, no neighbour of it, and CLEAR away."""
    own = {name for name, share in facts.colour.shares.items() if share >= 0.25} | set(facts.colour.names)
    dark = colours.lab(np.array([facts.colour.mean], dtype=np.uint8))[0, 0] < DARK
    near = own.union(*(colours.NEIGHBOURS[name] for name in facts.colour.names))
    far = [
        name
        for name, rgb in PALETTE.items()
        if colours.difference(rgb, facts.colour.mean) >= CLEAR and not (dark and name in BRIGHT)
    ]
    choices = [name for name in far if name not in near] or [name for name in far if name not in own] or far
    return _pick(choices, rng)


def _hybrid(things: Sequence[Thing], size: tuple[int, int], rng: np.random.Generator) -> Ask:
    order = [things[i] for i in rng.permutation(2)]
    operations: list[Ask] = []
    for thing in order:
        tasks = ["recolor", "style", "material"]
        if thing.whole and thing.borders <= 1 and thing.facts.place.area <= MAX_REMOVED:
            tasks.append("remove")
        taken = [operation.task for operation in operations]
        task = _pick([t for t in tasks if t not in taken], rng)
        operations.append(_object_ask(task, thing, size, rng))
    values = {"operations": [{"task": op.task, **op.params} for op in operations]}
    return Ask("hybrid", values, tuple(t.box for t in order), tuple(order), None, size, tuple(operations))


def _text(scene: Scene, slot: int, rng: np.random.Generator) -> Ask:
    spot = scene.calm_boxes[slot]
    font = _pick(params.FONTS, rng)
    x1, y1, x2, y2 = spot.box
    room = (x2 - x1) / (y2 - y1) / LETTER_WIDTH[font] * 1.4
    fitting = [word for word in WORDS if len(word) <= room] or ["NEW"]
    text = _pick(fitting, rng)
    values: dict[str, Any] = {
        "operation": _pick(("add", "replace"), rng),
        "text": text,
        "ink": _pick(LIGHT_INKS if spot.lightness < 55 else DARK_INKS, rng),
        "font": font,
    }
    if values["operation"] == "replace":
        alike = [word for word in fitting if word != text and abs(len(word) - len(text)) <= 2]
        values["old"] = _pick(alike or ["OLD"], rng)
    longest = max(len(text), len(values.get("old", "")))
    box = around_text(spot.box, longest * LETTER_WIDTH[font])
    values["box"] = list(box)
    return Ask("text", values, (box,), (), None, (scene.width, scene.height))


def around_text(room: boxes.Box, aspect: float) -> boxes.Box:
    """The largest box in the room, on its centre, for a line `aspect` times as long as high, so that letters fill it.

    Letters are set 0.72 of the box's height high and at most 0.9 of its width long (see the editor's layout).
    """
    x1, y1, x2, y2 = room
    ratio = 0.8 * aspect
    height = min(y2 - y1, (x2 - x1) / ratio)
    half_width, half_height = round(ratio * height / 2), round(height / 2)
    x, y = (x1 + x2) // 2, (y1 + y2) // 2
    return max(x1, x - half_width), max(y1, y - half_height), min(x2, x + half_width), min(y2, y + half_height)


def is_outline(fill: float) -> bool:
    """Whether a mask that covers this share of its box can be an object's: neither specks nor the whole box."""
    return 0.25 <= fill <= 0.97


def fits(sides: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Which objects can stand in the target's place: (n, 2) widths and heights in pixels -> bool (n,)."""
    relative = sides / np.array(target)
    ratio = relative[:, 0] / np.maximum(relative[:, 1], 1e-9)
    return (relative.min(axis=1) >= MIN_DONOR) & (ratio <= ASPECT_RANGE) & (ratio >= 1 / ASPECT_RANGE)


def rank(seed: int, target: str, donor: str) -> float:
    """Rendezvous hash of two photographs, in (0, 1]: the highest wins, so that a new photograph moves few choices."""
    return (chance.number(f"{seed}/{target}/{donor}", 6, "little") + 1) / 2**48


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
