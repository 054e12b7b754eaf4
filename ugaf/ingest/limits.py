"""How much of an input is read at most, and how long a server is waited for; checked before and while it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ugaf.ingest.sources import SourceError
from ugaf.stage import Settings


class LimitSettings(Settings):
    """Sizes over which a file, a line or a picture is refused unread, as a failed row that names the setting."""

    file_mb: int = Field(1024, ge=1, le=1 << 20, description="MiB of one image's file, or of its member in a tar")
    megapixels: int = Field(64, ge=1, le=178, description="millions of pixels of one image; a worker's memory follows")
    line_mb: int = Field(64, ge=1, le=1 << 14, description="MiB of one line or record of a list")
    caption_kb: int = Field(1024, ge=1, le=1 << 20, description="KiB of a caption or .json beside an image in a tar")

    def check(self, what: str, size: int, setting: str) -> None:
        """Raises SourceError for something of too many bytes. setting: `file_mb`, `line_mb` or `caption_kb`."""
        limit = {"file_mb": self.file_bytes, "line_mb": self.line_bytes, "caption_kb": self.caption_bytes}[setting]
        if size > limit:
            raise SourceError(f"{what} of {size} bytes is over the limit of {limit} bytes (limits.{setting})")

    @property
    def file_bytes(self) -> int:
        return self.file_mb << 20

    @property
    def pixels(self) -> int:
        return self.megapixels * 1_000_000

    @property
    def line_bytes(self) -> int:
        return self.line_mb << 20

    @property
    def caption_bytes(self) -> int:
        return self.caption_kb << 10


class HttpSettings(Settings):
    """Patience with the web servers that an input's addresses name."""

    connect_s: float = Field(10.0, gt=0, description="longest wait for a connection")
    read_s: float = Field(30.0, gt=0, description="longest wait for the next bytes of an answer")
    total_s: float = Field(300.0, gt=0, description="longest time for one whole answer")
    tries: int = Field(
        4, ge=1, description="times that a host which a cell names is asked for a file, with growing pauses between"
    )
    unanswered: Literal["pending", "failed"] = Field(
        "pending",
        description="what becomes of a row whose host gave no answer (throttled, refused, unreachable): pending, to be "
        "read by the same command later; failed, for sets of links of which many are dead",
    )
