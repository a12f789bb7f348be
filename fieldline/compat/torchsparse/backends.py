# SPDX-License-Identifier: Apache-2.0
"""torchsparse's ``backends``: switches that its users assign. Our engine needs none of them."""

__all__ = ["allow_fp16", "allow_tf32", "benchmark", "device_capability", "hash_rsv_ratio", "init"]

allow_fp16 = True
allow_tf32 = True
benchmark = False
device_capability = 800
hash_rsv_ratio = 2


def init() -> None:
    """Does nothing: there is nothing to find out."""
