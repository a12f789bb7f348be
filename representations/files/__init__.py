# SPDX-License-Identifier: Apache-2.0
"""The files that hold representations, behind `load` and `save`.

Importing this registers the formats of cameras, points, Gaussians and VDB grids. Parts on higher
floors add their own with `register_reader` and `register_writer`.
"""

from ..camera_path import CameraPath
from ..gaussians import Gaussians3D
from ..points import PointCloud
from ..vdb import VDBGrid
from .atomic import atomic_path, atomic_write
from .camera_path_json import is_camera_path, read_camera_path, write_camera_path
from .checkpoint import (
    is_gaussian_checkpoint,
    read_gaussian_checkpoint,
    write_gaussian_checkpoint,
)
from .compressed_ply import is_compressed_ply, read_compressed_ply
from .gaussian_ply import is_gaussian_ply, read_gaussian_ply, write_gaussian_ply
from .ply import PlyElement, PlyFile, PlyList, peek_ply, read_ply, write_ply
from .point_ply import read_point_ply, write_point_ply
from .registry import known_suffixes, load, register_reader, register_writer, save
from .splat import read_splat, write_splat
from .vdb import VDB_SUFFIXES, read_vdb, read_vdb_grids, write_vdb
from .vdb_convert import grid_to_tree, tree_to_grid
from .vdb_file import VDBFile
from .vdb_tree import Metadatum, VDBTiles, VDBTree

# The last registered is asked first, so points stand before what is more special. They take every
# .ply that nothing else claims: their reader then says what is wrong with it.
register_reader(".ply", None, read_point_ply, "points")
register_reader(".ply", is_gaussian_ply, read_gaussian_ply, "Gaussians")
register_reader(".ply", is_compressed_ply, read_compressed_ply, "compressed Gaussians")
register_reader(".splat", None, read_splat, "Gaussians")
register_reader(".safetensors", is_gaussian_checkpoint, read_gaussian_checkpoint, "Gaussians")
register_reader(".json", is_camera_path, read_camera_path, "a camera path")

for _suffix in VDB_SUFFIXES:
    register_reader(_suffix, None, read_vdb_grids, "VDB grids")
    for _type in (VDBGrid, VDBTree, VDBFile, dict, list):
        register_writer(_suffix, _type, write_vdb)

register_writer(".ply", PointCloud, write_point_ply)
register_writer(".ply", Gaussians3D, write_gaussian_ply)
register_writer(".splat", Gaussians3D, write_splat)
register_writer(".safetensors", Gaussians3D, write_gaussian_checkpoint)
register_writer(".json", CameraPath, write_camera_path)

__all__ = [
    "VDB_SUFFIXES",
    "Metadatum",
    "PlyElement",
    "PlyFile",
    "PlyList",
    "VDBFile",
    "VDBTiles",
    "VDBTree",
    "atomic_path",
    "atomic_write",
    "grid_to_tree",
    "known_suffixes",
    "load",
    "peek_ply",
    "read_camera_path",
    "read_compressed_ply",
    "read_gaussian_checkpoint",
    "read_gaussian_ply",
    "read_ply",
    "read_point_ply",
    "read_splat",
    "read_vdb",
    "read_vdb_grids",
    "register_reader",
    "register_writer",
    "save",
    "tree_to_grid",
    "write_camera_path",
    "write_gaussian_checkpoint",
    "write_gaussian_ply",
    "write_ply",
    "write_point_ply",
    "write_splat",
    "write_vdb",
]
