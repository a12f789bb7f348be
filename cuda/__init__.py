# SPDX-License-Identifier: Apache-2.0
"""The C++/CUDA core: one folder a system, each with its typed Python face in ``ops.py``."""
