"""WebDataset shards: tars with `KEY.source.jpg`, `KEY.edited.png`, `KEY.json` and, where there are, the masks; of
photographs, `KEY.jpg` or `KEY.png` and `KEY.json`.

Images are JPEGs and PNGs, which every reader's loop knows: others become PNG, without loss.
A tar is a function of its records alone: members in order of name within a sample, no time of day, owner or mode of
the machine that wrote it.
"""

from __future__ import annotations

import io
import tarfile
from contextlib import ExitStack
from typing import Any

from ugaf.export.folder import Folder
from ugaf.export.products import Exported

_BLOCK = tarfile.BLOCKSIZE
_END = tarfile.RECORDSIZE
"""A tar ends with zeros up to a multiple of this."""


class WebDatasetShards:
    """Writes the shards of one split; a context manager. Records come in order through `add`."""

    def __init__(self, folder: Folder, split: str, limit: float) -> None:
        self.folder = folder
        self.split = split
        self.limit = limit
        self.shards: list[str] = []
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._bytes = 0

    def __enter__(self) -> WebDatasetShards:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._close_shard()
        else:
            self._tar = None
            self._stack.__exit__(*error)

    def add(self, record: Exported) -> None:
        members = sorted([*record.files(), ("json", record.json())])
        size = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in members)
        if self._tar is not None and self._bytes + size + _END > self.limit:
            self._close_shard()
        if self._tar is None:
            path = f"{self.split}-{len(self.shards):06d}.tar"
            stream = self._stack.enter_context(self.folder.open_output(path))
            self._tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.shards.append(path)
        # Readers end the key at its first dot.
        key = record.id.replace(".", "_")
        for extension, data in members:
            member = tarfile.TarInfo(f"{key}.{extension}")
            member.size, member.mode = len(data), 0o644
            self._tar.addfile(member, io.BytesIO(data))
        self._bytes += size

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._stack.close()
        self._tar, self._bytes = None, 0
