"""Candidates for near-duplicates by the vectors of an image encoder: rows whose embeddings have a large cosine.

An encoder that was trained for it (SSCD: Pizzi et al., "A self-supervised descriptor for image copy detection", 2022)
finds what no signature can: strong crops, collages, overlays. The price is the encoder's, and 2 bytes a dimension.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ugaf.base.errors import ConfigError
from ugaf.base.needs import install_hint
from ugaf.measures.signatures import Floats

Vectors = NDArray[np.float16]
FLAT = 20_000
"""Vectors up to which every one is looked at; more are sorted into cells, of which a query visits `CELLS`."""
CELLS = 16
SAMPLE = 64
"""Vectors for each cell that the cells are learnt from."""


def unpack(column: pa.ChunkedArray | pa.Array) -> tuple[Vectors, NDArray[np.bool_]]:
    """Vectors float16 (n, d) of length 1, and which rows (n,) have one; the others are zeros.

    A row has none if it is null, of another dimension than the first, or not of finite, positive length.
    """
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    dimension = int(lengths[np.argmax(lengths > 0)]) if (lengths > 0).any() else 0
    there = (lengths == dimension) & (lengths > 0)
    out = np.zeros((len(lists), dimension), np.float16)
    values = lists.filter(pa.array(there)).flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    values = values.reshape(-1, dimension or 1)
    norms = np.linalg.norm(values, axis=1)
    good = np.isfinite(norms) & (norms > 0)
    places = np.flatnonzero(there)[good]
    out[places] = values[good] / norms[good, None]
    present = np.zeros(len(lists), bool)
    present[places] = True
    return out, present


def cosine(first: Vectors, second: Vectors) -> Floats:
    """float32 (n,) of unit vectors pair by pair; NaN where one is zeros (a row without a vector)."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    out = np.einsum("nd,nd->n", a, b).clip(-1, 1)
    return np.where(a.any(axis=1) & b.any(axis=1), out, np.float32(np.nan))


def candidates(
    index: Vectors, queries: Vectors, least: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(query, index row) of pairs whose cosine is at least `least`: of each query's `most` nearest.

    Exact up to `FLAT` vectors in the index. Beyond, an inverted file: a pair may be missed whose two vectors fell into
    cells that are far apart, which is rare at the cosines of copies. Raises ConfigError without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(install_hint({"faiss": "faiss"})) from error
    nothing = np.empty(0, np.int64)
    if not len(index) or not len(queries) or not index.shape[1]:
        return nothing, nothing
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(index.shape[1])
    found: Any = flat
    if len(index) > FLAT:
        cells = round(4 * len(index) ** 0.5)
        found = faiss.IndexIVFFlat(flat, index.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        step = max(1, len(index) // (SAMPLE * cells))
        found.train(index[::step].astype(np.float32))
        found.nprobe = CELLS
    for begin in range(0, len(index), FLAT):
        found.add(index[begin : begin + FLAT].astype(np.float32))
    pairs = []
    for begin in range(0, len(queries), FLAT):
        scores, rows = found.search(queries[begin : begin + FLAT].astype(np.float32), min(most, len(index)))
        query, place = np.nonzero((rows >= 0) & (scores >= least))
        pairs.append((query + begin, rows[query, place]))
    return np.concatenate([query for query, _ in pairs]), np.concatenate([row for _, row in pairs])
