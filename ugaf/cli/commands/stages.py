"""`ugaf stages`: the stages there are; for one of them, what it reads and writes, its settings and keep rules."""

from __future__ import annotations

import argparse
from typing import Any

from ugaf.cli.commands import documents

HELP = "list the stages, or one stage's columns, settings and keep rules"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", nargs="?")
    documents.option(parser)


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf.cli.commands.terminal import console
    from ugaf.pipeline import config
    from ugaf.stage import extensions

    if options.stage is None:
        names = (*config.known_stages(), *sorted(extensions.named("ugaf.stages")))
        listed = [{"name": name, "summary": _summary(config.stage_class(name))} for name in names]
        if options.json:
            documents.print_json({"stages": listed})
            return 0
        for entry in listed:
            console.print(f"{escape(entry['name']):32} {escape(entry['summary'])}")
        return 0
    stage = _document(options.stage)
    if options.json:
        documents.print_json(stage)
        return 0
    console.print(f"[bold]{escape(stage['name'])}[/]: {escape(stage['summary'])}")
    console.print(escape(f"reads: {', '.join(stage['reads']) or '-'}"))
    console.print("writes:")
    for column in stage["writes"]:
        console.print(escape(f"  {column['name']}: {column['type']}  {column['about']}".rstrip()))
    console.print("settings:")
    for setting in stage["settings"]:
        console.print(escape(f"  {setting['name']} = {setting['default']!r}  {setting['description']}"))
    console.print("keep (defaults):")
    for name, bounds in stage["keep"].items():
        console.print(escape(f"  {name}: {bounds}"))
    return 0


def _document(name: str) -> dict[str, Any]:
    """A stage as plain data. Raises ConfigError if there is none of that name."""
    from pydantic_core import PydanticUndefined, to_jsonable_python

    from ugaf.pipeline import config

    cls = config.stage_class(name)
    settings = []
    for key, setting in cls.Settings.model_fields.items():
        default = setting.get_default(call_default_factory=True)
        settings.append(
            {
                "name": key,
                "default": None if default is PydanticUndefined else to_jsonable_python(default),
                "required": setting.is_required(),
                "description": setting.description or "",
            }
        )
    return {
        "name": name,
        "summary": _summary(cls),
        "version": cls.version,
        "reads": list(cls.reads),
        "optional_reads": list(cls.optional_reads),
        "writes": [
            {
                "name": name,
                "type": str(column.type),
                "about": column.about,
                "range": column.range and list(column.range),
            }
            for name, column in cls.columns.items()
        ],
        "settings": settings,
        "keep": {column: dict(bounds) for column, bounds in cls.keep.items()},
    }


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
