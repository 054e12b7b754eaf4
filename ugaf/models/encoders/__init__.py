"""Encoders: photographs as vectors, by a checkpoint of transformers or a TorchScript module."""

from ugaf.models.encoders.interface import Encoder as Encoder
from ugaf.models.encoders.interface import Photo as Photo
from ugaf.models.encoders.opening import open_encoder as open_encoder
from ugaf.models.encoders.opening import photo_of as photo_of
from ugaf.models.encoders.opening import shared as shared
from ugaf.models.encoders.opening import unit as unit
