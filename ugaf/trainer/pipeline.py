"""An editor that was exported before this moved names its classes by this module."""

from ugaf.fineedit.pipeline import FineEditPipeline as FineEditPipeline
