"""What was exported of a run, when photographs are withdrawn: only shards that hold something of them are touched.

Shards may be of other thresholds than those of now. What in them is nobody's business of the withdrawal stays as it is;
where one row of a folder has to go, all of it is written anew from what the run keeps now, or removed if that is none.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ugaf.export import earlier, export_product, folder
from ugaf.export.products import PAIRS, PHOTOGRAPHS, Product, products

if TYPE_CHECKING:
    import pyarrow as pa

    from ugaf.columns.view import RunView
    from ugaf.storage import Storage
    from ugaf.withdrawal.erasing import Gone

_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_NAMING = ("id", "image_id", "donor")
_TEXTS = (".json", ".jsonl", ".txt")


def told(view: RunView, gone: Gone) -> Iterator[str]:
    """What would become of each folder of shards that is there, a line each; nothing is changed."""
    settings, now = earlier.remembered(view), products(view, earlier.remembered(view))
    for product in _there(view.storage):
        before = earlier.find(view.storage, product.root, product.noun)
        if not _holds(view.storage, product.root, gone):
            yield f"{product.root}: {_STAYS}"
        elif product not in now:
            yield f"{product.root}: removes {before}, since this pipeline does not write it"
        elif before is not None:
            rows = _left(view, product, gone)
            others = "" if rows or before.rows < 2 else "; of their other rows the run keeps none now"
            yield f"{product.root}: {earlier.replaces(before, earlier.with_earlier(settings, before), rows)}{others}"


def rewrite(view: RunView, gone: Gone, notify: Callable[[str], None]) -> None:
    """Write each folder of shards that holds something of what is gone anew without it."""
    settings = earlier.remembered(view)
    now, storage = products(view, settings), view.storage
    for product in _there(storage):
        root = product.root
        folder.finish(storage, root)
        folder.discard(storage, root)
        if not _holds(storage, root, gone):
            notify(f"{root}: {_STAYS}")
        elif product not in now:
            # What the pipeline that the folder was of before has exported, and this one cannot write anew.
            for path in (*folder.exported_files(storage, root), f"{root}/{folder.MANIFEST}"):
                storage.remove(path)
            notify(f"{root}: removed, since this pipeline does not write it")
        else:
            # To replace, since the exported may be of the withdrawn alone; the settings name all that is there.
            all_there = earlier.with_earlier(settings, earlier.find(storage, root, product.noun))
            card = product == now[-1]
            summary = export_product(view, product, all_there, replace=True, notify=notify, with_card=card)
            notify(f"{root}: {summary}")


_STAYS = "as they are: nothing of what is withdrawn is in them"


def _there(storage: Storage) -> list[Product]:
    return [one for one in (PHOTOGRAPHS, PAIRS) if storage.list(one.root)]


def _left(view: RunView, product: Product, gone: Gone) -> int:
    """How many rows the run keeps now, without what is gone."""
    level = "edit" if product.is_pairs else "image"
    ids = [id for table in view.rows(level, kept=True) for id in table.column("id").to_pylist()]
    return sum(id not in gone.all for id in ids)


def _holds(storage: Storage, root: str, gone: Gone) -> bool:
    """Whether an export names a row that is gone: in a file's name, in its rows, or among those it could not read."""
    manifest = f"{root}/{folder.MANIFEST}"
    paths = [*folder.exported_files(storage, root), *([manifest] if storage.exists(manifest) else [])]
    return any(_names(path.encode(), gone) or _file_holds(storage, path, gone) for path in paths)


def _file_holds(storage: Storage, path: str, gone: Gone) -> bool:
    def rows(source: pa.NativeFile) -> bool:
        file = pq.ParquetFile(source)
        table = file.read([name for name in _NAMING if name in file.schema_arrow.names])
        return any(pc.any(pc.is_in(column, gone.values)).as_py() for column in table.columns)

    def members(source: pa.NativeFile) -> bool:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            for member in tar:
                data = tar.extractfile(member) if member.name.endswith(".json") else None
                if _names(member.name.encode(), gone) or (data is not None and _names(data.read(), gone)):
                    return True
        return False

    if path.endswith((".parquet", ".tar")):
        return storage.read_with(path, rows if path.endswith(".parquet") else members)
    return path.endswith(_TEXTS) and _names(storage.read(path), gone)


def _names(text: bytes, gone: Gone) -> bool:
    return any(found.decode() in gone.all for found in _ID.findall(text))
