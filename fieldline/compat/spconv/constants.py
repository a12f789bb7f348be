# SPDX-License-Identifier: Apache-2.0
"""spconv's ``constants``: switches that its users assign. Only the weight layout does anything."""

import os
from pathlib import Path

ALL_WEIGHT_IS_KRSC = True
BOOST_ROOT = None
CPU_ONLY_BUILD = False
DISABLE_JIT = False
EDITABLE_INSTALLED = False
FILTER_HWIO = False
NDIM_DONT_CARE = 3
PACKAGE_NAME = "spconv"
PACKAGE_ROOT = Path(__file__).resolve().parent
# Of the checkpoints to load: "" or "KRSC" is today's layout, "RSKC" and "RSCK" are older ones.
SAVED_WEIGHT_LAYOUT = os.environ.get("SPCONV_SAVED_WEIGHT_LAYOUT", "")
SPCONV_ALLOW_TF32 = False
SPCONV_BWD_SPLITK = [1, 2, 4, 8, 16, 32, 64]
SPCONV_CPP_GEMM = True
SPCONV_CPP_INDICE_PAIRS = True
SPCONV_CPP_INDICE_PAIRS_IGEMM = False
SPCONV_DEBUG_SAVE_PATH = ""
SPCONV_DIRECT_TABLE_HASH_SIZE_SCALE = 1.1
SPCONV_DO_SORT = True
SPCONV_FX_TRACE_MODE = False
SPCONV_INT8_DEBUG = False
SPCONV_USE_DIRECT_TABLE = True

__all__ = [name for name in dir() if name.isupper()]
