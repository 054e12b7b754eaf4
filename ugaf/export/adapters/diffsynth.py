"""DiffSynth-Studio: `metadata.jsonl` (image = target, edit_image = source, prompt) with the image files beside it.

Train with `--dataset_base_path runs/NAME/shards/diffsynth --dataset_metadata_path .../metadata.jsonl
--data_file_keys image,edit_image --extra_inputs edit_image`. The validation split is in `metadata_validation.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

from ugaf.export.split import TRAIN

if TYPE_CHECKING:
    from ugaf.export.folder import Folder
    from ugaf.export.rows import Record


def diffsynth(records: Iterable[Record], folder: Folder) -> None:
    """Write the images, as they are in the shards, and one metadata line for each pair."""
    with ExitStack() as stack:
        lines: dict[str, IO[bytes]] = {}
        for record in records:
            # Two-letter folders: a folder of a million files is slow to list.
            stem = f"images/{record.id[:2]}/{record.id}"
            target = f"{stem}.edited.{record.edited.extension}"
            source = f"{stem}.source.{record.source.extension}"
            folder.write(target, record.edited.data)
            folder.write(source, record.source.data)
            if record.split not in lines:
                name = "metadata.jsonl" if record.split == TRAIN else f"metadata_{record.split}.jsonl"
                lines[record.split] = stack.enter_context(folder.open_output(name))
            entry = {"image": target, "edit_image": source, "prompt": record.values["instruction"]}
            lines[record.split].write(json.dumps(entry).encode() + b"\n")
