# SPDX-License-Identifier: Apache-2.0
"""nuScenes: its tables say which sweep came before which, where the sensor was, and when.

ROOT/v1.0-mini/sample_data.json         a row a sweep: file, time, pose, the sweep before it
ROOT/v1.0-mini/ego_pose.json            vehicle to world
ROOT/v1.0-mini/calibrated_sensor.json   sensor to vehicle
ROOT/samples/LIDAR_TOP/*.pcd.bin        key frames;  ROOT/sweeps/LIDAR_TOP: what lies between
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..errors import FileFormatError
from ..representations.rotations import quaternion_to_matrix
from .json_fields import as_number
from .lidar import load_point_cloud
from .lidar_frame import LidarFrame, merge_sweeps

_SENSOR = "LIDAR_TOP"
_MICROSECONDS = 1e-6
Row = dict[str, Any]


class NuScenes:
    """The LiDAR sweeps of a copy of nuScenes.

    Args:
        tables: The folder of the tables, such as "nuscenes/v1.0-mini"; data lies beside it.

    Raises:
        FileFormatError: If a table is missing what it should have.
        FileNotFoundError: If a table is.

    Example:
        >>> NuScenes(tmp_path / "v1.0-mini")
        Traceback (most recent call last):
        FileNotFoundError: ...
    """

    def __init__(self, tables: str | os.PathLike[str]) -> None:
        self.tables = Path(tables)
        rows = self._table("sample_data")
        self._sweeps = {
            token: row for token, row in rows.items() if _SENSOR in str(row.get("filename"))
        }
        self._poses = self._table("ego_pose")
        self._sensors = self._table("calibrated_sensor")
        self._by_file = {str(row["filename"]): token for token, row in self._sweeps.items()}

    @property
    def files(self) -> list[str]:
        """The key frames, in the order they were taken."""
        keys = [row for row in self._sweeps.values() if row.get("is_key_frame") is True]
        return [row["filename"] for row in sorted(keys, key=self._time)]

    def load(self, file: str, sweeps: int = 1, *, min_distance: float = 1.0) -> LidarFrame:
        """Open a sweep together with those before it, in the frame of its sensor.

        Args:
            file: As it stands in the tables; one of `files`, or a sweep between.
            sweeps: How many at most; a recording's first sweep has none before it.
            min_distance: Points nearer to the sensor than this in x and y are left out, metres.

        Returns:
            The points, with "time_lag" in seconds.

        Raises:
            ValueError: If the tables have no such file, or sweeps is below one.
            FileFormatError: If a table or a sweep is damaged.
        """
        if not isinstance(sweeps, int) or sweeps < 1:
            raise ValueError(f"NuScenes.load: sweeps: expected at least 1, got {sweeps!r}")
        token: Any = self._by_file.get(str(file))
        if token is None:
            raise ValueError(f"NuScenes.load: file: expected one of the tables, got {file!r}")
        rows: list[Row] = []
        while token in self._sweeps and len(rows) < sweeps:
            rows.append(self._sweeps[token])
            token = rows[-1].get("prev")
        return merge_sweeps(
            [load_point_cloud(self._place(row), "nuscenes") for row in rows],
            torch.stack([self._sensor_to_world(row) for row in rows]),
            [self._time(row) for row in rows],
            min_distance=min_distance,
        )

    def _table(self, name: str) -> dict[str, Row]:
        path = self.tables / f"{name}.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise FileFormatError(path, "content", "JSON", str(error)[:80]) from None
        if not isinstance(rows, list) or any(
            not isinstance(row, dict) or not isinstance(row.get("token"), str) for row in rows
        ):
            raise FileFormatError(path, "content", "a list of objects with a token", "another")
        return {row["token"]: row for row in rows}

    def _sensor_to_world(self, row: Row) -> Tensor:
        places = (
            ("ego_pose", self._poses, row.get("ego_pose_token")),
            ("calibrated_sensor", self._sensors, row.get("calibrated_sensor_token")),
        )
        pose = torch.eye(4, dtype=torch.float64)
        for name, table, token in places:
            found = table.get(token) if isinstance(token, str) else None
            if found is None:
                raise self._error(name, "token", f"one named {token!r}", "none")
            pose = pose @ self._matrix(name, found)
        return pose

    def _matrix(self, name: str, row: Row) -> Tensor:
        quaternion = self._numbers(name, row, "rotation", 4)
        if not 0.5 < math.hypot(*quaternion) < 2:
            raise self._error(name, "rotation", "a unit quaternion", str(quaternion))
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = quaternion_to_matrix(torch.tensor(quaternion, dtype=torch.float64))
        pose[:3, 3] = torch.tensor(self._numbers(name, row, "translation", 3))
        return pose

    def _numbers(self, name: str, row: Row, key: str, count: int) -> list[float]:
        value = row.get(key)
        numbers = [as_number(v) for v in value] if isinstance(value, list) else []
        found = [number for number in numbers if number is not None]
        if len(numbers) != count or len(found) != count:
            raise self._error(name, key, f"{count} numbers", str(value)[:80])
        return found

    def _time(self, row: Row) -> float:
        time = as_number(row.get("timestamp"))
        if time is None:
            got = str(row.get("timestamp"))[:80]
            raise self._error("sample_data", "timestamp", "microseconds", got)
        return time * _MICROSECONDS

    def _place(self, row: Row) -> Path:
        name = PurePosixPath(row["filename"])
        if name.is_absolute() or ".." in name.parts:
            raise self._error("sample_data", "filename", "a path below the root", str(name)[:200])
        return self.tables.parent / name

    def _error(self, table: str, field: str, expected: str, got: str) -> FileFormatError:
        return FileFormatError(self.tables / f"{table}.json", field, expected, got)
