"""An editor that was exported before this moved names its classes by this module."""

from ugaf.fineedit.transformer import FineEditTransformer2DModel as FineEditTransformer2DModel
