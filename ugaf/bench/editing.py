"""Where edited pictures come from: an editor that is run, a folder of pictures, or the data set's own pairs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ugaf.base.errors import ConfigError, nearest
from ugaf.base.failure import Failure, attempt
from ugaf.base.needs import install_hint
from ugaf.bench import protocols
from ugaf.bench.items import Benchmark, Item, Pictures, chunks
from ugaf.bench.settings import BenchSettings, link_to
from ugaf.bench.store import Store
from ugaf.imaging import images
from ugaf.models.editors.interface import Edit, Editor, EditRequest
from ugaf.models.judging.pairs import seed_of
from ugaf.stage import engines

DATASET = "dataset"
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


class Edits(Protocol):
    """identity: plain data, whose edits they are. label: the same for people."""

    identity: Mapping[str, Any]
    label: str

    def make(self, benchmark: Benchmark, protocol: protocols.Protocol, store: Store) -> None:
        """Make what is not there yet. Raises StopRun where the editor itself is gone."""

    def get(self, item: Item, pictures: Pictures, store: Store) -> bytes | Failure | None:
        """The edited picture of an item, encoded; why there is none; or None if it is missing."""


def edits_of(settings: BenchSettings) -> Edits:
    """What `--editor` or `--outputs` names. Raises ConfigError."""
    if settings.editor is not None:
        return EditorEdits(settings)
    if settings.outputs == DATASET:
        if settings.protocol != "fineedit":
            raise ConfigError(
                f"--outputs dataset: {settings.protocol} has no edited pictures of its own: name a folder"
            )
        return DatasetEdits()
    folder = Path(settings.outputs or "").expanduser()
    if not folder.is_dir():
        raise ConfigError(f"--outputs: no such folder: {settings.outputs}")
    return FolderEdits(folder)


class DatasetEdits:
    """The reference edits of the pairs themselves."""

    identity: Mapping[str, Any] = {"outputs": DATASET}
    label = "the data set's own edited pictures"

    def make(self, benchmark: Benchmark, protocol: protocols.Protocol, store: Store) -> None:
        """Nothing is to be made."""

    def get(self, item: Item, pictures: Pictures, store: Store) -> bytes | Failure | None:  # noqa: ARG002
        return pictures.edited


class FolderEdits:
    """Pictures that were edited elsewhere, by the names that the benchmark's own scripts give them (`Item.outputs`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.identity: Mapping[str, Any] = {"outputs": str(folder.resolve())}
        self.label = f"pictures of {folder}"

    def make(self, benchmark: Benchmark, protocol: protocols.Protocol, store: Store) -> None:
        """Nothing is to be made."""

    def get(self, item: Item, pictures: Pictures, store: Store) -> bytes | Failure | None:  # noqa: ARG002
        for name in item.outputs:
            for extension in _EXTENSIONS:
                file = self.folder / f"{name}{extension}"
                if file.is_file():
                    return file.read_bytes()
        return None


class EditorEdits:
    """An editor of `ugaf.stage.engines`, run over the items; its pictures are kept as PNG in the run's folder."""

    def __init__(self, settings: BenchSettings) -> None:
        spec = settings.editor or {}
        if spec.get("engine") == "templates":
            raise ConfigError(
                "--editor: `templates` edits by parameters, not by an instruction: to try a benchmark without a model, "
                "give --outputs dataset (fineedit) or a folder of pictures"
            )
        checked = engines.check("editor", spec)
        options = engines.settings_of("editor", spec)
        self._servers = {}
        for name in engines.server_names(options):
            if name not in settings.models:
                raise ConfigError(f"--editor: no server {name!r} in --models{nearest(name, settings.models)}")
            self._servers[name] = link_to(name, settings.models[name])
        if lacking := engines.needs("editor", spec).missing():
            raise ConfigError(f"--editor: {install_hint(lacking)}")
        told = engines.identity(options, settings.models)
        self.settings = settings
        self._spec = spec
        self.identity: Mapping[str, Any] = {
            "editor": {"engine": spec["engine"], **told, "version": checked["version"]},
            "seed": settings.seed,
        }
        servers = [link.settings.answers for link in self._servers.values()]
        self.label = ":".join([str(spec["engine"]), *([str(spec["model"])] if "model" in spec else []), *servers])

    def make(self, benchmark: Benchmark, protocol: protocols.Protocol, store: Store) -> None:
        pending = [item for item in benchmark.items if self._is_pending(item, store)]
        if not pending:
            return
        editor: Editor = engines.build("editor", self._spec, self._servers)
        done = 0
        for chunk in chunks(pending, self.settings.batch):
            self._make(editor, chunk, benchmark, protocol, store)
            done += len(chunk)
            print(f"edited {done} of {len(pending)}", file=sys.stderr, flush=True)

    def get(self, item: Item, pictures: Pictures, store: Store) -> bytes | Failure | None:  # noqa: ARG002
        found = store.picture(item.key)
        if found is not None:
            return found
        failed = store.get("edits", item.key)
        return Failure("EditFailed", failed["error"]) if failed else None

    def _is_pending(self, item: Item, store: Store) -> bool:
        if store.has_picture(item.key):
            return False
        return self.settings.retry_failed or store.get("edits", item.key) is None

    def _make(
        self,
        editor: Editor,
        chunk: Sequence[Item],
        benchmark: Benchmark,
        protocol: protocols.Protocol,
        store: Store,
    ) -> None:
        requests: dict[str, EditRequest] = {}
        for item, pictures in zip(chunk, benchmark.read(chunk), strict=True):
            request: EditRequest | Failure
            if isinstance(pictures, Failure):
                request = pictures
            else:
                request = attempt(lambda one: self._request(*one), (item, pictures, protocol))
            if isinstance(request, EditRequest):
                requests[item.key] = request
            else:
                store.put("edits", item.key, {"error": str(request)})
        for key, answer in zip(requests, editor.edit(list(requests.values())), strict=True):
            if isinstance(answer, Edit) and answer.edited is not None:
                store.put_picture(key, images.encode(answer.edited))
            else:
                why = str(answer) if isinstance(answer, Failure) else "the editor gave no edited picture"
                store.put("edits", key, {"error": why})

    def _request(self, item: Item, pictures: Pictures, protocol: protocols.Protocol) -> EditRequest:
        photo = images.decode(pictures.source)
        reference = images.decode(pictures.edited) if pictures.edited is not None else None
        around = protocol.boxes(item, photo, reference)
        seed = seed_of(item.id, f"bench {self.settings.seed}")
        return EditRequest(photo, item.group, item.instruction, around, seed=seed)
