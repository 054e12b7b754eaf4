"""An editor that was exported before this moved names its classes by this module."""

from ugaf.fineedit.exact_vae import CosineVAE as CosineVAE
