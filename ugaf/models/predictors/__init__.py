"""Predictors: a number for a photograph, by a head on an encoder's vector or by a classifier."""

from ugaf.models.predictors.backbone import Backbone as Backbone
from ugaf.models.predictors.backbone import predict_all as predict_all
from ugaf.models.predictors.interface import Predictor as Predictor
