"""ugaf: a distributed data engine that turns photographs into training sets of image edits."""

from pathlib import Path

__version__ = "0.1.0"

if not (Path(__file__).parent / "stages").is_dir():
    # A checkout has stages/ and pipelines/ beside ugaf/. They are ugaf.stages and ugaf.pipelines there too, as in a
    # wheel, so that a user's own folder of these names is never taken for them.
    __path__.append(str(Path(__file__).parents[1]))
