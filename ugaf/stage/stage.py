"""What a stage is: it reads columns of a row, and returns the row's new columns.

A stage knows nothing of Ray, storage, fragments, resume or thresholds. It gets rows (`Row`) and gives one outcome
for each: a mapping with the columns that it `writes`, or a `Failure`. A stage that fans out (one photograph becomes
several edits) gives a list of mappings, one for each child row.

The engine owns the rest: it joins the columns that a stage reads, calls `setup` once in each worker process, catches
what a row raises, and stores the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

from ugaf.base import chance
from ugaf.base.failure import Failure as Failure
from ugaf.base.failure import RowError as RowError
from ugaf.base.failure import each
from ugaf.base.needs import Needs, together
from ugaf.base.settings import Settings as Settings
from ugaf.base.settings import operational as operational
from ugaf.imaging import images
from ugaf.stage import engines
from ugaf.stage.column import Column as Column
from ugaf.stage.column import Range as Range
from ugaf.stage.column import columns_of
from ugaf.stage.whole import RunRows

Found = TypeVar("Found")


class Row:
    """One row as a stage sees it: its columns by name, and its images decoded once for all stages of a worker.

    `row["boxes"]` looks in the row's own columns, then in those of its parent (an edit's parent is its photograph).

    Attributes:
        id: content-derived, hexadecimal; the same input has the same id anywhere.
        parent: the row that this one was fanned out from, or None.
        peers: the rows of the same fragment given to this stage, with the columns that the stage names in `peers`
            (including this row); empty for stages that name none. Sorted by id.
        refs: for each column named in the stage's `refs`, the row of this fragment with that id, or None.
    """

    __slots__ = ("_memo", "id", "parent", "peers", "refs", "values")

    def __init__(self, id: str, values: dict[str, Any], parent: Row | None = None) -> None:
        self.id = id
        self.values = values
        self.parent = parent
        self.peers: Sequence[Row] = ()
        self.refs: Mapping[str, Row | None] = {}
        self._memo: dict[Any, Any] = {}

    def __getitem__(self, column: str) -> Any:
        row: Row | None = self
        while row is not None:
            if column in row.values:
                return row.values[column]
            row = row.parent
        raise KeyError(f"column {column!r} was not loaded: name it in the stage's `reads`")

    def __contains__(self, column: str) -> bool:
        return column in self.values or (self.parent is not None and column in self.parent)

    def get(self, column: str, default: Any = None) -> Any:
        try:
            return self[column]
        except KeyError:
            return default

    def photo(self, side: int | None = None) -> np.ndarray:
        """The photograph (column `image`): RGB uint8 (height, width, 3), read-only, decoded once for all stages.

        With `side`, its longer side is reduced to that many pixels (never enlarged), by a scaled JPEG decode where
        the format allows: see `images.decode`.
        """
        return self._decoded("image", side)

    def inspect(self, look: Callable[[np.ndarray, int], Found], side: int | None = None) -> Found:
        """What `look(pixels, scale)` returns for the photograph on its way to `photo(side)`: see `images.Inspect`.

        It shares the decode with `photo(side)`, whose pixels are remembered, and so is the answer. Where an earlier
        stage asked for `photo(side)` without looking, the photograph is decoded once more.
        """
        owner = self._owner("image")
        key = ("image", side, look)
        if key not in owner._memo:
            found: list[Found] = []
            pixels = images.decode(owner["image"], side, lambda shown, scale: found.append(look(shown, scale)))
            owner._remember(("image", side), pixels)
            owner._memo[key] = found[0]
        return owner._memo[key]

    def source(self) -> np.ndarray:
        """The pair's source: column `source_image` if the editor made one, else the photograph. RGB uint8."""
        return self._decoded("source_image", None) if self.get("source_image") is not None else self.photo()

    def edited(self) -> np.ndarray:
        """The pair's target: column `edited_image` if the editor made one, else the photograph. RGB uint8."""
        return self._decoded("edited_image", None) if self.get("edited_image") is not None else self.photo()

    def _decoded(self, column: str, side: int | None) -> np.ndarray:
        owner = self._owner(column)
        key = (column, side)
        if key not in owner._memo:
            owner._remember(key, images.decode(owner[column], side))
        return owner._memo[key]

    def _owner(self, column: str) -> Row:
        owner: Row = self
        while column not in owner.values and owner.parent is not None:
            owner = owner.parent
        return owner

    def _remember(self, key: Any, pixels: np.ndarray) -> None:
        pixels.flags.writeable = False
        self._memo.setdefault(key, pixels)


Outcome = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Failure

_SAID_ELSEWHERE = {
    **dict.fromkeys(("own_pool", "cpus", "gpus", "batch_rows"), "return it in a Needs from the classmethod `needs`"),
    "fans_out": "a stage fans out where it has an `identity`",
    "whole_run": "derive from WholeRunStage",
    "ranges": "give each Column its range",
}


class Stage:
    """Base of every stage. The smallest one sets `writes` and defines `process`.

    Class attributes:
        version: raise it when a change of code changes the columns; it is part of the folder's fingerprint.
        reads: columns of earlier stages that the stage needs.
        optional_reads: columns that it uses where an earlier stage of the pipeline writes them.
        writes: its own new columns by name (without `id` and `error`, which the engine adds): each a `Column`, or its
            type alone. `schema` is Arrow's word for them.
        keep: its default keep rules, by column; a pipeline's `keep:` overrides them one by one.
        identity: the stage fans out: it returns a list of child rows for each row, and these columns of a child make,
            with the parent's id, the child's id. Empty: it does not.
        peers: columns of the other rows of the fragment that it needs at once (see `Row.peers`).
        refs: column holding another row's id -> columns of that row that the stage needs (see `Row.refs`).
        seeded: True when it uses `rng`; the run's seed is then part of its fingerprint.
        lane_column: for a stage with `lanes`, the column that says which lane does a row.

    What it needs of the machine (a pool of its own, a GPU, a server, rows a call) is said by `needs`.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    optional_reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[Mapping[str, Any]]
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    identity: ClassVar[tuple[str, ...]] = ()
    peers: ClassVar[tuple[str, ...]] = ()
    refs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    seeded: ClassVar[bool] = False
    lane_column: ClassVar[str] = ""
    columns: ClassVar[Mapping[str, Column]] = {}
    schema: ClassVar[pa.Schema]
    fans_out: ClassVar[bool] = False
    whole_run: ClassVar[bool] = False

    class Settings(Settings):
        """A stage without settings of its own."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name, instead in _SAID_ELSEWHERE.items():
            if name in vars(cls) and cls.__module__ != __name__:
                raise TypeError(f"{cls.__name__}.{name}: {instead}")
        if "writes" in vars(cls):
            cls.columns = columns_of(cls.writes)
            cls.schema = pa.schema([(name, column.type) for name, column in cls.columns.items()])
        cls.fans_out = bool(cls.identity)

    def __init__(self, name: str, settings: Any = None, seed: int = 0) -> None:
        self.name = name
        self.settings: Any = settings if settings is not None else type(self).Settings()
        self.seed = seed
        self.servers: Mapping[str, Any] = {}
        self.lane: str | None = None

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        """What the stage needs with these settings: that of the engines which they name. Nothing heavy is imported.

        For a stage with `lanes`, `lane` names the one that is asked about.
        """
        named = engines.engines_in(settings)
        return together(engines.needs(kind, spec) for kind, key, spec in named if not (lane and key) or key == lane)

    @classmethod
    def lanes(cls, settings: Any) -> tuple[str, ...]:  # noqa: ARG003
        """Names of parts of the stage that run in pools of their own, each on the rows whose `lane_column` names it.

        For a stage that does the same with several models (two editors). Empty for a stage that is one pool. A row that
        names no lane is given to the first one, which has to answer for it.
        """
        return ()

    @classmethod
    def offers(cls, settings: Any) -> Mapping[str, Sequence[str]]:  # noqa: ARG003
        """Values that the stage may write into a column, where they are known: checked against the lanes of others."""
        return {}

    def setup(self) -> None:
        """Called once in each worker before the first row: load models here."""

    def process(self, row: Row) -> Outcome:
        """One row's outcome. Raise (RowError for what the user should read) and the row is recorded as failed."""
        raise TypeError(f"{type(self).__name__} defines neither process nor __call__ (row {row.id})")

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Outcomes of a batch, in order. Override it where a batch is cheaper than its rows one by one."""
        return each(self.process, rows)

    def rng(self, row: Row, purpose: str = "") -> np.random.Generator:
        """A generator seeded by the run's seed, the stage and the row, so that the same run gives the same bytes."""
        if not self.seeded:
            raise TypeError(f"{type(self).__name__} uses rng but is not `seeded`: its fingerprint would lack the seed")
        return np.random.default_rng(chance.number(f"{self.seed}/{self.name}/{row.id}/{purpose}", 16, "little"))


class WholeRunStage(Stage):
    """A stage that compares the rows of the whole run: it defines `across` in place of `process`."""

    whole_run = True

    def across(self, run: RunRows) -> Iterator[tuple[str, Sequence[Outcome]]]:
        """Each fragment with pending rows, and their outcomes in the order of the ids.

        A fragment's outcomes are stored when they are given; if the process ends there, those of the others are asked
        for again, and these rows count as measured before.
        """
        raise TypeError(f"{type(self).__name__} does not define across ({run})")
