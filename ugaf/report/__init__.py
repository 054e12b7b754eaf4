"""One self-contained HTML page that shows a run: what came in, what is out and why, and what the pairs look like.

`write_report` collects plain data from a run (`collect`, `distributions`, `sample`, `cards`), shrinks the sampled
images (`thumbnails`) and renders one page (`page`) that needs no server and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ugaf.columns import outputs
from ugaf.report.collect import collect
from ugaf.report.page import render

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

PATH = "report/index.html"


def write_report(view: RunView, *, gallery: int = 600, seed: int = 0) -> str:
    """Write the run's report and return its path inside the run folder (`report/index.html`).

    The same run, `gallery` and `seed` give the same bytes; the file is only written when they differ from what is
    there.

    Args:
        view: the run.
        gallery: how many pairs and photographs the gallery shows at most; 0 for a report without images. The page
            stays under about 20 MB whatever is asked for: thumbnails get smaller as they get more.
        seed: chooses the sample.

    Raises:
        ValueError: `gallery` is negative.
    """
    if gallery < 0:
        raise ValueError(f"gallery is {gallery}; it is the number of rows to show, 0 or more")
    key = outputs.key_of(view, ("report", gallery, seed))
    if outputs.is_current(view, PATH, key, PATH):
        return PATH
    page = render(collect(view, gallery=gallery, seed=seed)).encode("utf-8")
    if not view.storage.exists(PATH) or view.storage.read(PATH) != page:
        view.storage.write(PATH, page)
    outputs.remember(view, PATH, key, PATH)
    return PATH
