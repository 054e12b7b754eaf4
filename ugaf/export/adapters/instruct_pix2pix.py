"""diffusers' `train_instruct_pix2pix.py` (and its SDXL variant): a column map.

The script loads the run's folder itself (`--dataset_name runs/NAME`: the dataset card lists the Parquet shards) and
takes the names of the columns as options, so no image is copied: this writes the options into a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ugaf.export.folder import Folder
    from ugaf.export.rows import Record

COLUMN_MAP = {"original_image_column": "source", "edit_prompt_column": "instruction", "edited_image_column": "edited"}


def instruct_pix2pix(records: Iterable[Record], folder: Folder) -> None:  # noqa: ARG001  (no image is copied)
    """Write `arguments.txt`: the script's options, one a line, for `$(cat .../arguments.txt)` in its command."""
    options = [f"--{option}={column}\n" for option, column in COLUMN_MAP.items()]
    folder.write("arguments.txt", "".join(options).encode())
