"""Which columns of a table are the image, the caption, the pair: the names that published sets and trainers use.

Facts on each schema: the diffusers training scripts (InstructPix2Pix, Kontext / Flux2 LoRA), DiffSynth-Studio's
metadata, FireRed's trainer, MagicBrush, OmniEdit, ImgEdit, Inter-Edit, AnyEdit, musubi-tuner, and ugaf's own shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ugaf.base.errors import ConfigError, nearest

Columns = Mapping[str, str]
"""Our name (see `inputs.ROLES`) to the file's column."""


class NoColumnsError(ConfigError):
    """A table or list that has no column of what is looked for; beside files that have, it is left out."""


class NamesFilesError(Exception):
    """A table or list of photographs that only names their files, where that was not asked for."""


@dataclass(frozen=True)
class Recognised:
    """What ingest reads of a table or list.

    Attributes:
        columns: our names to the file's.
        is_pairs: whether its rows are edit pairs, not photographs.
        names_files: whether its images are texts: paths, URLs or base64.
    """

    columns: dict[str, str]
    is_pairs: bool
    names_files: bool = False


@dataclass(frozen=True)
class PairSchema:
    """A published layout of edit pairs: its columns for the two images, and its candidates for the instruction."""

    name: str
    source: str
    edited: str
    instruction: tuple[str, ...]


PAIR_SCHEMAS = (
    PairSchema("ugaf", "source", "edited", ("instruction",)),
    PairSchema("ugaf columns", "source_image", "edited_image", ("instruction", "edit_prompt")),
    PairSchema("diffusers InstructPix2Pix", "input_image", "edited_image", ("edit_prompt", "instruction")),
    PairSchema("HQ-Edit", "input_image", "output_image", ("edit", "instruction", "edit_prompt")),
    PairSchema("InstructPix2Pix", "original_image", "edited_image", ("edit_prompt", "edit_instruction", "instruction")),
    PairSchema("DiffSynth-Studio", "edit_image", "image", ("prompt", "instruction")),
    PairSchema("FireRed", "source_image", "target_image", ("instruction", "instruction_cn")),
    PairSchema("MagicBrush", "source_img", "target_img", ("instruction",)),
    PairSchema("OmniEdit", "src_img", "edited_img", ("edited_prompt_list", "instruction")),
    PairSchema("ImgEdit", "input_images", "output_images", ("prompt", "instruction")),
    PairSchema("Inter-Edit", "original_image_path", "edited_image_path", ("instruction", "edit_prompt", "prompt")),
    PairSchema("Inter-Edit, as released", "source_file", "target_file", ("instruction",)),
    PairSchema("AnyEdit", "image_file", "edited_file", ("edit_instruction",)),
    PairSchema("musubi-tuner", "control_path", "image_path", ("caption", "prompt")),
    PairSchema("diffusers Kontext", "cond_image", "image", ("caption", "prompt", "instruction")),
    PairSchema("diffusers Kontext", "cond_image", "target", ("caption", "prompt", "instruction")),
    PairSchema("diffusers Kontext", "cond_image", "target_image", ("caption", "prompt", "instruction")),
    PairSchema("diffusers Kontext", "control_image", "image", ("caption", "prompt", "instruction")),
    PairSchema("diffusers Kontext", "condition_image", "target_image", ("caption", "prompt", "instruction")),
    PairSchema("diffusers Kontext", "file_name", "output_image", ("instruction", "caption", "prompt")),
    PairSchema("source and target", "source", "target", ("instruction", "prompt", "caption")),
)
PAIR_ROLES = (
    ("source", "edited"),
    ("source", "target"),
    ("source_image", "edited_image"),
    ("source_image", "target_image"),
    ("source_img", "target_img"),
    ("src_img", "edited_img"),
    ("src", "edited"),
    ("src", "tgt"),
    ("input", "output"),
    ("input", "edited"),
    ("input_image", "edited_image"),
    ("input_image", "output_image"),
    ("original_image", "edited_image"),
    ("original", "edited"),
    ("before", "after"),
    ("edit_image", "image"),
    ("cond_image", "image"),
    ("cond_image", "target"),
    ("cond_image", "target_image"),
    ("control_image", "image"),
    ("condition_image", "target_image"),
)
"""What stands between key and suffix of a pair's two images in a tar (`KEY.source.png`, `KEY.edited.png`), the names
of our shards first."""
SOURCE_ROLES = frozenset(source for source, _ in PAIR_ROLES)
EDITED_ROLES = frozenset(edited for _, edited in PAIR_ROLES)
_OPTIONAL = {
    "task": ("task", "edit_type", "task_type", "edit_task"),
    "boxes": ("boxes", "bounding_box", "bbox", "box"),
    "reference": ("bbox_reference_dimensions",),
    "engine": ("engine", "editor"),
    "id": ("id", "sample_id", "omni_edit_id", "img_id"),
    "image_id": ("image_id",),
    "split": ("split",),
}
_INSTRUCTION_NAMES = ("instruction", "edit_prompt", "edit_instruction", "edit", "prompt", "caption", "text")
IMAGE_NAMES = (
    "image",
    "images",
    "image_base64",
    "base64",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "photo",
    "picture",
    "image_bytes",
    "bytes",
    "content",
)
PATH_NAMES = ("image_path", "img_path", "image_file", "file_name", "filename", "path", "file")
CAPTION_NAMES = ("caption", "captions", "text", "prompt", "description")


def pair_columns(columns: Sequence[str], given: Columns, where: str) -> dict[str, str] | None:
    """The columns of a pair set; None if these are not an edit pair's columns.

    `given` are the input's own `columns:`, which win. Raises ConfigError, naming `where`, for a given column that is
    not there, and for a pair without an instruction column.
    """
    check_given(columns, given, where)
    found = dict(given)
    if not {"source", "edited"} <= given.keys():
        schema = next((schema for schema in PAIR_SCHEMAS if {schema.source, schema.edited} <= set(columns)), None)
        if schema is None:
            return None
        found = {"source": schema.source, "edited": schema.edited, **found}
        candidates: Iterable[str] = schema.instruction
    else:
        candidates = _INSTRUCTION_NAMES
    if "instruction" not in found:
        name = next((name for name in candidates if name in columns), None)
        if name is None:
            raise ConfigError(
                f"{where}: has source ({found['source']}) and edited images ({found['edited']}) but no column for the "
                f"instruction; say which it is with columns: {{instruction: NAME}}; found: {', '.join(columns)}"
            )
        found["instruction"] = name
    return {**optional_columns(columns, found), **found}


def optional_columns(columns: Iterable[str], found: Columns) -> dict[str, str]:
    """The task, boxes, engine, id and split columns among `columns`, for the roles that `found` does not name yet."""
    free = set(columns) - set(found.values())
    matches = {role: next((name for name in names if name in free), None) for role, names in _OPTIONAL.items()}
    return {role: name for role, name in matches.items() if name is not None and role not in found}


def image_columns(candidates: Sequence[str], columns: Sequence[str], given: Columns, where: str) -> dict[str, str]:
    """The image column and, where there is one, the caption's and the id's. Raises ConfigError if there is none.

    `candidates` are the columns that could hold an image by their type, the surest first.
    """
    check_given(columns, given, where)
    found = {role: given[role] for role in ("image", "caption", "id") if role in given}
    if "image" not in found:
        named = [name for name in IMAGE_NAMES if name in candidates]
        if not named and len(candidates) != 1:
            problem = f"several could be the image ({', '.join(candidates)})" if candidates else "no image column"
            raise (ConfigError if candidates else NoColumnsError)(
                f"{where}: {problem}; say which it is with columns: {{image: NAME}}; found: {', '.join(columns)}"
            )
        found["image"] = (named or list(candidates))[0]
    for role, names in (("caption", CAPTION_NAMES), ("id", (*_OPTIONAL["id"], "image_id"))):
        name = next((name for name in names if name in columns and name != found["image"]), None)
        if role not in found and name is not None:
            found[role] = name
    return found


def tar_fields(fields: Iterable[str], given: Columns) -> dict[str, str]:
    """Which of the fields beside a tar's pair is the instruction, the task and so on; `given` win."""
    names = list(fields)
    found = {role: name for role, name in given.items() if name in names}
    if "instruction" not in given:
        name = next((name for name in _INSTRUCTION_NAMES if name in names), None)
        found |= {"instruction": name} if name is not None else {}
    return {**optional_columns(names, found), **found}


def no_pair_columns(columns: Iterable[str], where: str, or_image: bool = False) -> NoColumnsError:
    """The error for a file that has no columns of any known set of edit pairs (and no image column either)."""
    return NoColumnsError(
        f"{where}: its columns are of no known set of edit pairs{', and none is an image' if or_image else ''}; name "
        f"them with columns: {{source: NAME, edited: NAME, instruction: NAME}}{' or {image: NAME}' if or_image else ''}"
        f"; found: {', '.join(columns) or 'no readable record'}"
    )


def check_once(names: Sequence[str], found: Columns, where: str) -> None:
    """Raise ConfigError for a column that is read and of which a file has several by that name."""
    for role, name in found.items():
        if names.count(name) > 1:
            raise ConfigError(
                f"{where}: {names.count(name)} columns are called {name!r}, and which is the {role} cannot be told: "
                "rename them"
            )


def check_given(columns: Sequence[str], given: Columns, where: str) -> None:
    for role, name in given.items():
        if name not in columns:
            raise ConfigError(f"{where}: columns.{role}: there is no column {name!r}{nearest(name, columns)}")
