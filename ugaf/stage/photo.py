"""A stage that is one function on one photograph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import Field, create_model

from ugaf.base.settings import Settings
from ugaf.stage.column import Column
from ugaf.stage.stage import Row, Stage

Measure = Callable[..., Any]


def photo_stage(
    keep: Mapping[str, Mapping[str, Any]] | None = None,
    side: int | None = None,
    version: int = 1,
    **writes: Column | Any,
) -> Callable[[Measure], type[Stage]]:
    """Make a stage of `function(photo, *, setting=default, ...)`, in its place in its module.

        @photo_stage(letterbox=Column(float, "share of black bars, 0..1", range=(0, 1)), side=256)
        def letterbox(photo, *, black: int = 24): ...

    photo: RGB uint8 (height, width, 3), read-only, upright. The function returns the column's value, or with several
    columns a mapping of all; it raises RowError where there is none. Its keyword-only arguments are the stage's
    settings, by their annotations and defaults.

    Args:
        keep: default keep rules, by column.
        side: longer side in pixels to which the photograph is reduced (a setting of that name); None: as it is.
        version: raised when a change of the function changes the columns.
        writes: the columns by name: a Column, or its type.
    """

    def made(function: Measure) -> type[Stage]:
        options = _options(function)
        names, own = list(writes), list(options)
        if side is not None:
            if "side" in options:
                raise TypeError(f"{function.__name__}: `side` is the photograph's already: call the argument otherwise")
            options["side"] = (int, Field(side, ge=1, description="longer side in pixels at which it is looked at"))

        def process(self: Stage, row: Row) -> Any:
            photo = row.photo(None if side is None else self.settings.side)
            found = function(photo, **{name: getattr(self.settings, name) for name in own})
            return found if isinstance(found, Mapping) else {names[0]: _plain(found)}

        settings = create_model("Settings", __base__=Settings, __module__=function.__module__, **options)
        settings.__qualname__ = f"{function.__qualname__}.Settings"
        body = {
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "version": version,
            "reads": ("image",),
            "writes": writes,
            "keep": dict(keep or {}),
            "Settings": settings,
            "function": staticmethod(function),
            "process": process,
        }
        return type(function.__name__, (Stage,), body)

    return made


def _options(function: Measure) -> dict[str, Any]:
    """The keyword-only arguments as pydantic's fields. Raises TypeError for a function of another form."""
    first, *others = inspect.signature(function, eval_str=True).parameters.values()
    wrong = [one.name for one in others if one.kind != one.KEYWORD_ONLY]
    if first.kind == first.KEYWORD_ONLY or wrong:
        raise TypeError(f"{function.__name__}: takes the photograph, and settings after a `*`: {', '.join(wrong)}")
    empty = inspect.Parameter.empty
    return {
        one.name: (Any if one.annotation is empty else one.annotation, ... if one.default is empty else one.default)
        for one in others
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
