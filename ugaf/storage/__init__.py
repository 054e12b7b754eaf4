"""Where a run's files are: `Storage`, on a local disk or any file system of pyarrow or fsspec."""

from ugaf.storage.side_by_side import ahead as ahead
from ugaf.storage.store import Storage as Storage
from ugaf.storage.store import open_filesystem as open_filesystem
