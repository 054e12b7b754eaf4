"""Readers: the text in a photograph, and where it stands (OCR)."""

from ugaf.models.readers.interface import Line as Line
from ugaf.models.readers.interface import Reader as Reader
