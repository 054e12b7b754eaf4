"""`sample://`: real photographs that scikit-image carries in its wheel, so that a first run needs no data.

Seven are in colour. Six are greyscale on purpose: curation should turn them down, and the report shows it doing so.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator

from ugaf.base.errors import ConfigError, nearest
from ugaf.ingest.sources import SourceRef

SCHEME = "sample://"
_FILES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
    "camera.png",
    "clock_motion.png",
    "coins.png",
    "grass.png",
    "moon.png",
    "page.png",
)
SAMPLES = {name.partition(".")[0]: name for name in _FILES}


def list_samples(path: str) -> Iterator[SourceRef]:
    """`sample://` is all of them, `sample://coffee` one. Raises ConfigError for an unknown name."""
    name = check_name(path)
    for sample in [name] if name else SAMPLES:
        size = len(read_sample(SAMPLES[sample]))
        yield SourceRef.of(SCHEME + sample, "", str(size), "sample", {"file": SAMPLES[sample], "size": size})


def check_name(path: str) -> str:
    """The photograph's name, "" for all."""
    name = path.removeprefix(SCHEME).strip("/")
    if name and name not in SAMPLES:
        raise ConfigError(f"input {path!r}: no bundled photograph of that name{nearest(name, SAMPLES)}")
    return name


def read_sample(file: str) -> bytes:
    return importlib.resources.files("skimage").joinpath("data", file).read_bytes()
