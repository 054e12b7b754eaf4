"""What earlier exports of a run left, and what of their settings still holds.

Nothing that another call made is taken away unless it is asked for (`--replace-shards`): formats and adapters of an
earlier call are brought up to date with the rest, and shards are not replaced by none. What is replaced is said first.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ugaf.base.printing import counted
from ugaf.export import folder
from ugaf.export.adapters import ADAPTERS
from ugaf.pipeline.settings import FORMATS, ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView
    from ugaf.storage import Storage

CHANGES = "export.json"
"""Settings that `ugaf export --set` changed, by name: the value, and the pipeline's own that it stands over."""

SHRUNK = 0.5
"""An export with less than this part of the rows of the one before is said to have shrunk."""


@dataclass(frozen=True)
class Earlier:
    """An export that is there. rows: pairs or photographs. files, bytes: of shards and adapters together."""

    noun: str
    rows: int
    files: int
    bytes: int
    name: str
    written: str
    formats: tuple[str, ...]
    adapters: tuple[str, ...]

    def __str__(self) -> str:
        were = ", ".join(text for text in (self.name, self.written) if text)
        size = f"{self.files:,} file{'s' * (self.files != 1)}, {self.bytes / 1e6:,.1f} MB"
        return f"{size}, {counted(self.rows, self.noun)}" + (f" (were: {were})" if were else "")


def find(storage: Storage, root: str, noun: str) -> Earlier | None:
    """What the last export left in this folder of the run; None if nothing is there."""
    files = folder.exported_files(storage, root)
    if not files:
        return None
    manifest = folder.read_manifest(storage, root) or {}
    names = {path.split("/")[1] for path in files}
    known = manifest.get("files", {})
    size = sum(known.get(path) or folder.size(storage, path) for path in files)
    time = storage.filesystem.get_file_info(storage.path(f"{root}/{folder.MANIFEST}")).mtime
    written = "" if time is None else time.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = sum(manifest.get("counts", {}).get("split", {}).values())
    formats, adapters = (tuple(sorted(names & set(all_names))) for all_names in (FORMATS, ADAPTERS))
    return Earlier(noun, rows, len(files), size, str(manifest.get("name", "")), written, formats, adapters)


def with_earlier(settings: ExportSettings, earlier: Earlier | None) -> ExportSettings:
    """The settings, and beside what they name the formats and adapters that are there."""
    if earlier is None:
        return settings
    formats, adapters = {*settings.formats, *earlier.formats}, {*settings.adapters, *earlier.adapters}
    return settings.model_copy(update={"formats": sorted(formats), "adapters": sorted(adapters)})


def replaces(earlier: Earlier, settings: ExportSettings, rows: int) -> str:
    """What happens to an earlier export that gives way to one of (at most) so many rows with these settings."""
    if not rows:
        return f"removes {earlier}"
    text = f"replaces {earlier} by {counted(rows, earlier.noun)}"
    if rows < SHRUNK * earlier.rows:
        text += f": {1 - rows / earlier.rows:.0%} fewer (the funnel says where they went)"
    gone = [*(name for name in earlier.formats if name not in settings.formats)]
    gone += [name for name in earlier.adapters if name not in settings.adapters]
    return text + (f"; removes {', '.join(gone)}" if gone else "")


def planned(view: RunView) -> list[str]:
    """What a run would do to the exports that are there now, for people; nothing is read but their manifests."""
    from ugaf.export.products import products

    lines = []
    for product in products(view, remembered(view)):
        if (earlier := find(view.storage, product.root, product.noun)) is not None:
            lines.append(
                f"{product.root}: {earlier} are there; a run that keeps {product.noun} replaces them, one that keeps "
                f"none leaves them unless --replace-shards asks for it"
            )
    return lines


def remembered(view: RunView, asked: Collection[str] = ()) -> ExportSettings:
    """The pipeline's export settings with what `ugaf export --set` changed before.

    A change counts until the pipeline itself says something new of that setting. asked: names of settings that this
    call sets itself.
    """
    own = view.pipeline.settings.export.model_dump(mode="json")
    changes = {name: entry["value"] for name, entry in _changes(view, own).items() if name not in asked}
    return ExportSettings.model_validate({**own, **changes})


def remember(view: RunView, settings: ExportSettings, asked: Collection[str]) -> None:
    """Keep the asked settings for later calls; those that the pipeline has itself by now are dropped."""
    own = view.pipeline.settings.export.model_dump(mode="json")
    now = settings.model_dump(mode="json")
    changes = {name: entry for name, entry in _changes(view, own).items() if name not in asked}
    changes |= {name: {"value": now[name], "over": own[name]} for name in asked if now[name] != own[name]}
    if changes:
        view.storage.write_if_changed(CHANGES, json.dumps(changes, indent=1, sort_keys=True).encode() + b"\n")
    elif view.storage.exists(CHANGES):
        view.storage.remove(CHANGES)


def described(view: RunView, settings: ExportSettings) -> str:
    """The remembered settings in words; "" if there are none."""
    own = view.pipeline.settings.export.model_dump(mode="json")
    now = settings.model_dump(mode="json")
    told = [f"{name}={json.dumps(now[name])}" for name in _changes(view, own) if now[name] != own[name]]
    return f"export settings of an earlier call: {', '.join(told)} ({CHANGES})" if told else ""


def _changes(view: RunView, own: Mapping[str, Any]) -> dict[str, Any]:
    """The changes on record that still hold: the pipeline says of the setting what it said then."""
    try:
        document = json.loads(view.storage.read(CHANGES))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: entry for name, entry in document.items() if name in own and own[name] == entry["over"]}
