"""Preprocessing and selection of AdelaiDet's published models; the defaults of both types are mmdetection's."""

from condinst_deploy.contract import Preprocessing, Selection

ADELAIDET_PREPROCESSING = Preprocessing(std=(1.0, 1.0, 1.0), family="adelaidet")
ADELAIDET_SELECTION = Selection(family="adelaidet")
