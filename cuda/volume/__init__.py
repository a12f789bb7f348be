# SPDX-License-Identifier: Apache-2.0
"""Volume rendering kernels: scans, compositing, sums and resampling of samples along rays."""
