# SPDX-License-Identifier: Apache-2.0
"""NerfAcc's functions and estimators over ours: code written for NerfAcc runs on a CPU too.

    import fieldline.compat.nerfacc as nerfacc
    from fieldline.compat.nerfacc.estimators.occ_grid import OccGridEstimator

or, for code that is not ours to change, before it is imported:

    fieldline.compat.install("nerfacc")

Module paths, signatures, shapes and defaults are those of NerfAcc 0.5.3, with what its repository
has added since (``indices=``, ``expected_depths``, ``losses.distortion``). Errors are ours: where
NerfAcc asserts, ValueError or TypeError say what was expected. Random draws differ.
"""

from .data_specs import RayIntervals, RaySamples
from .estimators.occ_grid import OccGridEstimator
from .estimators.prop_net import PropNetEstimator
from .grid import ray_aabb_intersect, traverse_grids
from .losses import distortion
from .pack import pack_info
from .pdf import importance_sampling, searchsorted
from .scan import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum
from .version import __version__
from .volrend import (
    accumulate_along_rays,
    render_transmittance_from_alpha,
    render_transmittance_from_density,
    render_visibility_from_alpha,
    render_visibility_from_density,
    render_weight_from_alpha,
    render_weight_from_density,
    rendering,
)

__all__ = [
    "OccGridEstimator",
    "PropNetEstimator",
    "RayIntervals",
    "RaySamples",
    "__version__",
    "accumulate_along_rays",
    "distortion",
    "exclusive_prod",
    "exclusive_sum",
    "importance_sampling",
    "inclusive_prod",
    "inclusive_sum",
    "pack_info",
    "ray_aabb_intersect",
    "render_transmittance_from_alpha",
    "render_transmittance_from_density",
    "render_visibility_from_alpha",
    "render_visibility_from_density",
    "render_weight_from_alpha",
    "render_weight_from_density",
    "rendering",
    "searchsorted",
    "traverse_grids",
]
