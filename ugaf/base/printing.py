"""Text from data (file names, captions, what a server said) made fit to be printed, and streams that take any text."""

from __future__ import annotations

import os
import re
import sys

HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
"""Controls but tab and newline, separators of lines and paragraphs, halves of surrogate pairs, and format characters,
which turn the direction of a line or hide in it; but for the joiners of words and emoji."""


def harmless(text: str) -> str:
    r"""The text with such characters spelled out: an escape sequence is shown as `\x1b[31m` and does nothing.

    Newlines and tabs stay; whoever wants one line joins it.
    """
    return HARMFUL.sub(_spelled, text) if HARMFUL.search(text) else text


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def counted(rows: int, noun: str) -> str:
    """ "1 pair", "2,000 pairs"; `noun` is the plural."""
    return f"{rows:,} {noun.removesuffix('s') if rows == 1 else noun}"


def complain(who: str, what: object) -> None:
    """Say on standard error why a command ended, or what it could not do."""
    print(f"{who}: {harmless(str(what))}", file=sys.stderr)


def ready_streams() -> None:
    """Whatever this process prints can be written: characters that the streams' encoding lacks are spelled out, and
    what was closed by the caller (`>&-`) is thrown away."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one; left free, the next file that is opened would be printed into.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
