"""Where the first version's guide imports the pipeline of an exported editor from; it is `ugaf.fineedit.pipeline`."""

from ugaf.fineedit.pipeline import FineEditPipeline as FineEditPipeline
