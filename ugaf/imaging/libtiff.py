"""What libtiff complains about while Pillow decodes, caught instead of printed on stderr without a file's name."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import _imaging  # type: ignore[attr-defined]

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_local = threading.local()


@contextmanager
def caught() -> Iterator[list[str]]:
    """The errors that libtiff reports in this thread within the block; those of other threads go where they went."""
    _install()
    messages: list[str] = []
    outer, _local.messages = getattr(_local, "messages", None), messages
    try:
        yield messages
    finally:
        _local.messages = outer


@functools.cache
def _install() -> object:
    """Put our handler before Pillow's libtiff's own, once a process; nothing where its symbols are hidden."""
    try:
        library = ctypes.CDLL(_imaging.__file__)
        install = library.TIFFSetErrorHandler
        format_message = ctypes.CDLL(None).vsnprintf
    except (OSError, AttributeError, TypeError):
        return None
    format_message.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)
    install.restype = ctypes.c_void_p
    previous: list[object] = []

    def handle(module: bytes | None, text: bytes, arguments: int) -> None:
        messages = getattr(_local, "messages", None)
        if messages is None:
            for handler in previous:
                handler(module, text, arguments)  # type: ignore[operator]
            return
        buffer = ctypes.create_string_buffer(300)
        # A va_list is passed as a pointer on the machines that there are wheels for, and goes on as it came.
        format_message(buffer, len(buffer), text, arguments)
        if len(messages) < 3:
            messages.append(b": ".join(filter(None, (module, buffer.value))).decode("utf-8", "replace"))

    ours = _Handler(handle)
    before = install(ours)
    if before:
        previous.append(_Handler(before))
    return ours
