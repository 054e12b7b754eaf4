"""Near-duplicates of a whole run: blocks of rows, each compared with each, within a memory budget.

A block is as many fragments as the budget holds. A task takes two blocks, looks both ways, compares what met, and gives
back links between rows, numbered by their place in the run. Rows that were measured before are compared with pending
ones only. Of rows whose stored values are equal in a block, one takes part and the others are linked with it, so that
copies of one file cost nothing and link like a star.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ugaf.dedup import alignment, embeddings, search
from ugaf.dedup.links import Links, join, reduced
from ugaf.measures import signatures
from ugaf.measures.signatures import Floats
from ugaf.stage.whole import RunRows

Packed = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Measure = Callable[[Packed, Packed], Floats]
"""(values of one row of each pair uint8 (n, size), of the other) -> float32 (n)."""

WORKING_MB = 350
"""Memory of a task beside its two blocks: the process itself with its libraries, and what `search.QUERIES` queries and
`alignment.PAIRS` pairs need."""
ROW_BYTES = 160
"""Hash, keys and flags of a row beside its values, and what making them takes."""


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
        column: holds each row's value: a signature, perhaps followed by more.
        least: similarity from which ordinary photographs are linked (`alignment.required`).
        by: "signature", "embedding" or both: what finds and links rows.
        least_embedding: cosine of embeddings from which rows are linked, where `by` names them.
        flips: a mirrored copy is a copy.
        most: links that are stored at a row, beside those that hold a cluster together.
        size: bytes of a value.
        more, least_more: name of a further measure, what computes it from the values, and the least that links.
        memory_mb: memory of a task.
        vectors: the column of embeddings, or "" where there is none.
    """

    column: str
    least: float
    by: tuple[str, ...] = ("signature",)
    least_embedding: float = 0.75
    flips: bool = False
    most: int = 32
    size: int = signatures.BYTES
    more: tuple[str, Measure] | None = None
    least_more: float = 0.0
    memory_mb: int = 1024
    vectors: str = ""


@dataclass(frozen=True)
class Block:
    """Neighbouring fragments: the number of their first row in the run, and how many rows, pending ones among them."""

    fragments: tuple[str, ...]
    start: int
    rows: int
    pending: int


@dataclass(frozen=True)
class Loaded:
    """A block's rows (n,): values, which of them are whole, which are pending, and their embeddings, if any."""

    start: int
    values: Packed
    good: Flags
    pending: Flags
    vectors: embeddings.Vectors | None

    def take(self, rows: np.ndarray) -> tuple[Packed, Floats]:
        """Values and coefficients of some rows."""
        values = self.values[rows]
        return values, signatures.unpack_array(values[:, : signatures.BYTES])


def find(run: RunRows, wanted: Search) -> Links:
    """All links of pending rows with each other and with those measured before."""
    blocks = blocks_of(run, rows_in(wanted, _dimension(run, wanted.vectors)))
    pairs = [(a, b) for a, b in combinations_with_replacement(blocks, 2) if a.pending or b.pending]
    nothing = _verified(_empty(wanted), _empty(wanted), np.empty((0, 2), np.int64), wanted)
    return join([nothing, *run.map(partial(task, wanted=wanted), pairs)])


def rows_in(wanted: Search, dimension: int) -> int:
    """Rows of a block, so that two of them and their work stay within the budget; `dimension`: of embeddings, or 0."""
    row = wanted.size + ROW_BYTES + (2 + 4 * ("embedding" in wanted.by)) * dimension
    return max(1, int((wanted.memory_mb - WORKING_MB) * 1e6 / (2 * row)))


def blocks_of(run: RunRows, rows: int) -> list[Block]:
    """The run's fragments in blocks of at most `rows` rows; a fragment is never divided."""
    blocks: list[Block] = []
    start = 0
    for fragment, (count, pending) in run.counts.items():
        if blocks and blocks[-1].rows + count <= rows:
            last = blocks[-1]
            blocks[-1] = Block((*last.fragments, fragment), last.start, last.rows + count, last.pending + pending)
        else:
            blocks.append(Block((fragment,), start, count, pending))
        start += count
    return blocks


def task(run: RunRows, pair: tuple[Block, Block], wanted: Search) -> Links:
    """Links between two blocks, or within one."""
    first = load(run, pair[0], wanted)
    second = first if pair[0] == pair[1] else load(run, pair[1], wanted)
    return links_between(first, second, wanted)


def links_between(first: Loaded, second: Loaded, wanted: Search) -> Links:
    """Links between the rows of two loaded blocks, at least one end pending; `second` may be `first` itself."""
    same = second is first
    found: list[np.ndarray] = []
    if "signature" in wanted.by:
        leaders, stars = _leaders(first)
        others = leaders if same else _leaders(second)[0]
        found += [stars] if same else []
        found += _meetings(first, leaders, second, others, wanted.flips)
        found += [] if same else [pairs[:, ::-1] for pairs in _meetings(second, others, first, leaders, wanted.flips)]
    if "embedding" in wanted.by:
        found += _near_vectors(first, second, wanted)
        found += [] if same else [pairs[:, ::-1] for pairs in _near_vectors(second, first, wanted)]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    if same:
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    codes = np.unique(pairs[:, 0] * len(second.values) + pairs[:, 1])
    pairs = np.stack(np.divmod(codes, max(len(second.values), 1)), axis=1)
    parts = [_verified(first, second, pairs[part], wanted) for part in search.slices(len(pairs), alignment.PAIRS)]
    return reduced(join([_verified(first, second, pairs[:0], wanted), *parts]), wanted.most)


def load(run: RunRows, block: Block, wanted: Search) -> Loaded:
    """Read a block."""
    names = [wanted.column, *([wanted.vectors] if wanted.vectors else [])]
    values = np.zeros((block.rows, wanted.size), np.uint8)
    good, pending = np.zeros(block.rows, bool), np.zeros(block.rows, bool)
    vectors: embeddings.Vectors | None = None
    start = 0
    for fragment in block.fragments:
        table = run.table(fragment, names)
        rows = slice(start, start + table.num_rows)
        values[rows], good[rows] = unpacked(table.column(wanted.column), wanted.size)
        pending[rows] = table.column("pending").to_numpy(zero_copy_only=False)
        if wanted.vectors:
            found, _ = embeddings.unpack(table.column(wanted.vectors))
            if vectors is None and found.shape[1]:
                vectors = np.zeros((block.rows, found.shape[1]), np.float16)
            if vectors is not None and found.shape[1] == vectors.shape[1]:
                vectors[rows] = found
        start = rows.stop
    return Loaded(block.start, values, good, pending, vectors)


def unpacked(column: pa.ChunkedArray, size: int) -> tuple[Packed, Flags]:
    """The values of a binary column: uint8 (n, size), and which of them (n,) are whole; the others are zeros."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.binary())
    good = pc.fill_null(pc.equal(pc.binary_length(array), size), False).to_numpy(zero_copy_only=False).copy()
    out = np.zeros((len(array), size), np.uint8)
    whole = array.filter(pa.array(good)).cast(pa.binary(size))
    if len(whole):
        data = np.frombuffer(whole.buffers()[1], np.uint8)
        out[good] = data[whole.offset * size :][: len(whole) * size].reshape(-1, size)
    good &= signatures.whole(out[:, : signatures.BYTES])
    return out, good


def _leaders(block: Loaded) -> tuple[NDArray[np.int64], np.ndarray]:
    """Rows that take part, and pairs (n, 2) of all others that are equal to one of them with that one.

    Of equal rows the first that was measured before takes part, or else the first. Rows that show too little to be
    told apart take no part.
    """
    rows = np.flatnonzero(block.good)
    if not len(rows):
        return rows, np.empty((0, 2), np.int64)
    enough = [alignment.detail(block.take(rows[part])[1]) for part in search.slices(len(rows))]
    rows = rows[np.concatenate(enough) >= alignment.LITTLE]
    rows = rows[np.argsort(block.pending[rows], kind="stable")]
    digests = _digests(block.values)[rows]
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    leader = rows[first][group]
    follows = leader != rows
    for part in search.slices(len(rows)):
        follows[part] &= (block.values[leader[part]] == block.values[rows[part]]).all(axis=1)
    stars = np.stack([leader[follows], rows[follows]], axis=1)
    return np.sort(rows[~follows]), stars[block.pending[stars].any(axis=1)]


def _digests(values: Packed) -> NDArray[np.uint64]:
    """A number for each row (n,) that is equal for equal rows, and hardly for others."""
    width = -(-values.shape[1] // 8)
    factors = np.random.default_rng(0).integers(0, 2**63, width, np.uint64) * np.uint64(2) + np.uint64(1)
    out = np.empty(len(values), np.uint64)
    for part in search.slices(len(values)):
        words = np.zeros((part.stop - part.start, width), np.uint64)
        words.view(np.uint8)[:, : values.shape[1]] = values[part]
        mixed = (words ^ (words >> np.uint64(29))) * factors
        out[part] = (mixed ^ (mixed >> np.uint64(32))).sum(axis=1, dtype=np.uint64)
    return out


def _meetings(
    asking: Loaded, queries: NDArray[np.int64], asked: Loaded, index: NDArray[np.int64], flips: bool
) -> list[np.ndarray]:
    """Pairs (n, 2) of rows: pending ones ask all, others ask the pending ones."""
    new = asking.pending[queries]
    found = []
    for chosen, there in ((queries[new], index), (queries[~new], index[asked.pending[index]])):
        if len(chosen) and len(there):
            hashes = search.HashIndex(asked.values, there)
            for part in search.candidates(hashes, asking.values, chosen, flips):
                found.append(np.stack([chosen[part.queries], there[part.index]], axis=1))
    return found


def _near_vectors(asking: Loaded, asked: Loaded, wanted: Search) -> list[np.ndarray]:
    if asking.vectors is None or asked.vectors is None or asking.vectors.shape[1] != asked.vectors.shape[1]:
        return []
    found = []
    for new in (True, False):
        queries = np.flatnonzero((asking.pending == new) & asking.vectors.any(axis=1))
        index = np.flatnonzero((asked.pending | new) & asked.vectors.any(axis=1))
        most = max(wanted.most, search.BUCKET) + 1  # itself is the nearest
        query, row = embeddings.candidates(asked.vectors[index], asking.vectors[queries], wanted.least_embedding, most)
        found.append(np.stack([queries[query], index[row]], axis=1))
    return found


def _verified(first: Loaded, second: Loaded, pairs: np.ndarray, wanted: Search) -> Links:
    """The pairs (n, 2) of rows of the two blocks that are links, with all measures."""
    a, b = pairs[:, 0], pairs[:, 1]
    (values_a, one), (values_b, other) = first.take(a), second.take(b)
    measures = alignment.compare(one, other, wanted.flips)
    details = np.minimum(alignment.detail(one), alignment.detail(other))
    whole = first.good[a] & second.good[b]
    measures["similarity"] = np.where(whole, measures["similarity"], np.float32(0))
    linked = whole & (measures["similarity"] >= alignment.required(details, wanted.least))
    measures["embedding"] = np.full(len(pairs), np.nan, np.float32)
    if first.vectors is not None and second.vectors is not None and first.vectors.shape[1] == second.vectors.shape[1]:
        measures["embedding"] = embeddings.cosine(first.vectors[a], second.vectors[b])
    if "signature" not in wanted.by:
        linked[:] = False
    if "embedding" in wanted.by:
        linked |= measures["embedding"] >= wanted.least_embedding
    if wanted.more is not None:
        name, measure = wanted.more
        measures[name] = measure(values_a, values_b)
        linked &= measures[name] >= wanted.least_more
    return Links(a + first.start, b + second.start, measures).take(linked)


def _dimension(run: RunRows, column: str) -> int:
    for fragment in run.fragments if column else ():
        vectors, _ = embeddings.unpack(run.table(fragment, [column]).column(column))
        if vectors.shape[1]:
            return vectors.shape[1]
    return 0


def _empty(wanted: Search) -> Loaded:
    none = np.zeros(0, bool)
    return Loaded(0, np.empty((0, wanted.size), np.uint8), none, none, None)
