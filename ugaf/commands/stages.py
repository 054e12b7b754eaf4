"""`ugaf stages`: the stages there are; for one of them, what it reads and writes, its settings and keep rules."""

from __future__ import annotations

import argparse

HELP = "list the stages, or one stage's columns, settings and keep rules"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", nargs="?")


def run(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from ugaf import config
    from ugaf.commands.terminal import console

    if options.stage is None:
        for name in config.known_stages():
            console.print(f"{escape(name):32} {escape(_summary(config.stage_class(name)))}")
        return 0
    cls = config.stage_class(options.stage)
    console.print(f"[bold]{escape(options.stage)}[/]: {escape(_summary(cls))}")
    console.print(escape(f"reads: {', '.join(cls.reads) or '-'}"))
    console.print("writes:")
    for field in cls.writes:
        console.print(escape(f"  {field.name}: {field.type}"))
    console.print("settings:")
    for name, setting in cls.Settings.model_fields.items():
        default = setting.get_default(call_default_factory=True)
        console.print(escape(f"  {name} = {default!r}  {setting.description or ''}"))
    console.print("keep (defaults):")
    for column, bounds in cls.keep.items():
        console.print(escape(f"  {column}: {dict(bounds)}"))
    return 0


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
