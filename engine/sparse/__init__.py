# SPDX-License-Identifier: Apache-2.0
"""Sparse convolution: tensors, layers and what prepares them, ``fieldline.sparse``.

`SparseTensor` is a set of coordinates with feature rows; the layers are in ``fieldline.nn``.
"""

from ...cuda.sparse.tuning import padded_pairs, tune
from . import models
from .capture import CapturedNetwork, capture
from .collate import collate
from .combine import cat, intersection, union
from .convert import convert_state_dict
from .count import LayerCount, OperationCount, count_operations
from .fuse import fuse
from .plan import Plan, plan
from .quantize import Quantized, hash, hash_query, quantize
from .tensor import SparseTensor, Voxelized

__all__ = [
    "CapturedNetwork",
    "LayerCount",
    "OperationCount",
    "Plan",
    "Quantized",
    "SparseTensor",
    "Voxelized",
    "capture",
    "cat",
    "collate",
    "convert_state_dict",
    "count_operations",
    "fuse",
    "hash",
    "hash_query",
    "intersection",
    "models",
    "padded_pairs",
    "plan",
    "quantize",
    "tune",
    "union",
]
