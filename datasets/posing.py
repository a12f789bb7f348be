# SPDX-License-Identifier: Apache-2.0
"""Poses for photos that have none: SIFT features, matching and incremental mapping by pycolmap.

Photos of one size and one focal length (as their EXIF data says it) share a camera with one radial
distortion coefficient. The result is a COLMAP model, which `load` reads like any other; distorted
photos are undistorted there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image

from ..errors import FileFormatError
from .colmap import find_model
from .images import read_image
from .names import natural_order

T = TypeVar("T")

Matching = Literal["auto", "exhaustive", "sequential"]
Stage = Literal["photos", "features", "matches", "cameras"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".tga")
_RECORD = "posing.json"
_VERSION = 1
# With two views, one of them held out, nothing is left to learn depth from.
_FEWEST = 3
# Matching all pairs of more than this takes longer than all the rest.
_MOST_EXHAUSTIVE = 80
# COLMAP's own settings for sequences: each photo with the next ten, and with those 2^k on.
_OVERLAP = 10
# Features are found in photos reduced to this: SIFT on a whole 24 MP photo takes a minute a core.
_FEATURE_SIZE = 1600
# What the first pair of a map must have: minimum angle in degrees and common points. COLMAP's own
# values first; forward-facing captures may have no pair as wide as that.
_FIRST_PAIRS = ((16.0, 100), (4.0, 40))
_POLL_SECONDS = 0.2
_EXIF_CAMERA, _EXIF_DETAILS, _EXIF_FOCAL = 0x0110, 0x8769, 0x920A


@dataclass(frozen=True)
class PosingProgress:
    """How far `solve_poses` is: `done` of `total` in a stage; stages come in this order."""

    stage: Stage
    """Reading the photos, finding features, matching pairs, placing cameras."""
    done: int
    total: int


@dataclass(frozen=True)
class PosedPhotos:
    """What `solve_poses` found: ``load(posed.folder, images=posed.images)`` opens it."""

    folder: Path
    """Holds the COLMAP model, in sparse/0."""
    images: Path
    """The folder of the photos."""
    registered: tuple[str, ...]
    """Names of the photos whose pose was found, in natural order."""
    left_out: Mapping[str, str]
    """Why each of the other photos was left out, by name."""


def list_photos(folder: Path) -> tuple[Path, list[str]]:
    """List the photos of a folder, or of `images` in it if it has none itself.

    Args:
        folder: Any folder.

    Returns:
        The folder that holds them, and their names in natural order.
    """
    for place in (folder, folder / "images"):
        if place.is_dir():
            files = (entry for entry in place.iterdir() if entry.suffix.lower() in _SUFFIXES)
            names = [entry.name for entry in files if entry.is_file()]
            if names:
                return place, sorted(names, key=natural_order)
    return folder, []


def needs_poses(place: Path) -> bool:
    """Say whether a path is a folder of photos that nothing gives poses to.

    Args:
        place: Any path.
    """
    if not place.is_dir():
        return False
    known = ("transforms.json", "transforms_train.json")
    if any((place / name).is_file() for name in known) or find_model(place) is not None:
        return False
    return bool(list_photos(place)[1])


def solve_poses(
    photos: str | Path,
    out: str | Path,
    *,
    matching: Matching = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[PosingProgress], None] | None = None,
) -> PosedPhotos:
    """Find where photos were taken from, on the CPU, and write it as a COLMAP model.

    Photos that do not decode, or that do not fit into the largest map, are left out, with a warning
    that names them. A result in `out` for the same photos is taken as it is.

    Args:
        photos: A folder of at least three photos that overlap, or one with such a folder `images`.
        out: Where the model goes; made if need be.
        matching: "exhaustive" matches all pairs; "sequential" each photo with the ten after it, and
            some further ones, by name; "auto" is exhaustive for up to 80 photos.
        threads: CPU threads; default as many as torch uses.
        seed: Seed of all random choices. With one thread, the same photos give the same poses.
        progress: Called as the work goes on; an exception from it, or Ctrl-C, stops the work.

    Returns:
        Where the model is, and which photos it has.

    Raises:
        ValueError: If an argument is out of range, fewer than three photos decode, or no three of
            them can be placed together.
        ImportError: If pycolmap is not installed, or is too old.

    Source:
        Schonberger and Frahm, Structure-from-Motion Revisited, CVPR 2016; Lowe, Distinctive Image
        Features from Scale-Invariant Keypoints, IJCV 2004.

    Example:
        >>> posed = solve_poses("photos/", "run/colmap")  # doctest: +SKIP
        >>> scene = load(posed.folder, images=posed.images)  # doctest: +SKIP
        >>> solve_poses(tmp_path, tmp_path / "run")
        Traceback (most recent call last):
        ValueError: solve_poses: photos: expected at least 3 that decode, got 0 in ...
    """
    folder, out = Path(photos), Path(out)
    _check(folder, matching, threads)
    images, names = list_photos(folder)
    known = _Record.of(images, names, matching)
    if (found := known.kept(out)) is not None:
        return found
    pycolmap = _pycolmap()
    report = progress or (lambda _: None)
    readable, left_out = _readable(pycolmap, images, names, report)
    if len(readable) < _FEWEST:
        raise ValueError(
            f"solve_poses: photos: expected at least {_FEWEST} that decode, got {len(readable)} "
            f"in {images}{_reasons(left_out)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads() if threads is None else threads
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as work, _quiet(pycolmap):
        pycolmap.set_random_seed(seed)
        solver = _Solver(pycolmap, images, Path(work), readable, threads, seed, report)
        model = solver.solve(matching)
        registered = {image.name for image in model.images.values() if image.has_pose}
        (Path(work) / "model").mkdir()
        model.write(str(Path(work) / "model"))
        _replace(Path(work) / "model", out / "sparse" / "0")
    for name in readable:
        if name not in registered:
            left_out[name] = "does not fit into the map"
    placed = tuple(name for name in names if name in registered)
    known.write(out, placed, left_out)
    posed = PosedPhotos(out, images, placed, left_out)
    if left_out:
        warnings.warn(
            f"{images}: {len(left_out)} of {len(names)} photos left out{_reasons(left_out)}",
            stacklevel=2,
        )
    return posed


def _check(folder: Path, matching: str, threads: int | None) -> None:
    if not folder.is_dir():
        raise ValueError(f"solve_poses: photos: expected a folder, got {folder}: no such folder")
    if matching not in ("auto", "exhaustive", "sequential"):
        raise ValueError(
            "solve_poses: matching: expected 'auto', 'exhaustive' or 'sequential', "
            f"got {matching!r}"
        )
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"solve_poses: threads: expected an int >= 1, got {threads!r}")


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "poses of photos are solved by pycolmap, which is not installed: pip install pycolmap"
        ) from error
    if not hasattr(pycolmap, "FeatureExtractionOptions"):
        version = getattr(pycolmap, "__version__", "unknown")
        raise ImportError(f"solve_poses: expected pycolmap 4 or newer, got {version}")
    return pycolmap


@contextlib.contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """COLMAP writes what it does to stderr, and whatever goes wrong comes as an exception."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _reasons(left_out: Mapping[str, str]) -> str:
    """The first few photos that were left out, and why."""
    shown = [f"{name} ({why})" for name, why in itertools.islice(left_out.items(), 5)]
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    return f": {', '.join(shown)}{more}" if shown else ""


def _readable(
    pycolmap: Any, images: Path, names: Sequence[str], report: Callable[[PosingProgress], None]
) -> tuple[list[str], dict[str, str]]:
    """Those photos that decode, and why the others are left out."""
    readable: list[str] = []
    left_out: dict[str, str] = {}
    for done, name in enumerate(names):
        report(PosingProgress("photos", done, len(names)))
        try:
            read_image(images / name)
        except FileFormatError:
            left_out[name] = "does not decode"
            continue
        if pycolmap.Bitmap.read(str(images / name), True) is None:
            left_out[name] = f"pycolmap cannot read {Path(name).suffix[1:]}; make it JPEG or PNG"
            continue
        readable.append(name)
    report(PosingProgress("photos", len(names), len(names)))
    return readable, left_out


def _camera_key(path: Path) -> tuple[Any, ...]:
    """What photos of one camera have in common: size, model and focal length."""
    with Image.open(path) as image:
        key: tuple[Any, ...] = image.size
        # EXIF data is often broken, and then says nothing.
        with contextlib.suppress(Exception):
            exif = image.getexif()
            focal = exif.get_ifd(_EXIF_DETAILS).get(_EXIF_FOCAL)
            return (*key, str(exif.get(_EXIF_CAMERA)), None if focal is None else float(focal))
    return (*key, "None", None)


def _replace(new: Path, old: Path) -> None:
    """Puts a folder in the place of another."""
    shutil.rmtree(old, ignore_errors=True)
    old.parent.mkdir(parents=True, exist_ok=True)
    new.replace(old)


@dataclass(frozen=True)
class _Record:
    """What a result was made from, so that it can be told whether it still holds."""

    images: Path
    content: dict[str, Any]

    @staticmethod
    def of(images: Path, names: Sequence[str], matching: str) -> _Record:
        stats = {name: (images / name).stat() for name in names}
        photos = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
        return _Record(images, {"version": _VERSION, "matching": matching, "photos": photos})

    def kept(self, out: Path) -> PosedPhotos | None:
        """The result that `out` holds, if it is one for these photos."""
        try:
            found = json.loads((out / _RECORD).read_text(encoding="utf-8"))
            same = all(found[name] == value for name, value in self.content.items())
            registered, left_out = tuple(found["registered"]), dict(found["left_out"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not same or find_model(out) is None:
            return None
        return PosedPhotos(out, self.images, registered, left_out)

    def write(self, out: Path, registered: Sequence[str], left_out: Mapping[str, str]) -> None:
        content = {**self.content, "registered": list(registered), "left_out": dict(left_out)}
        (out / _RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass
class _Solver:
    """The three stages on one database."""

    pycolmap: Any
    images: Path
    work: Path
    names: list[str]
    threads: int
    seed: int
    report: Callable[[PosingProgress], None]

    @property
    def database(self) -> Path:
        return self.work / "database.db"

    def solve(self, matching: Matching) -> Any:
        """The largest map that can be made of the photos."""
        self._features()
        self._matches(matching)
        best = None
        for angle, common in _FIRST_PAIRS:
            for model in self._map(angle, common):
                if best is None or model.num_reg_images() > best.num_reg_images():
                    best = model
            if best is not None and best.num_reg_images() >= max(_FEWEST, len(self.names) / 2):
                break
        placed = 0 if best is None else best.num_reg_images()
        if placed < _FEWEST:
            pairs = self._count("two_view_geometries WHERE rows >= 15")
            raise ValueError(
                f"solve_poses: photos: expected at least {_FEWEST} that can be placed together, "
                f"got {placed} of {len(self.names)} in {self.images}; {pairs} pairs of them have "
                "enough in common (photos must overlap, show texture, and be taken from different "
                "places)"
            )
        return best

    def _features(self) -> None:
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in self.names:
            groups.setdefault(_camera_key(self.images / name), []).append(name)
        options = self.pycolmap.FeatureExtractionOptions()
        options.num_threads, options.max_image_size = self.threads, _FEATURE_SIZE
        single, cpu = self.pycolmap.CameraMode.SINGLE, self.pycolmap.Device.cpu
        reader = self.pycolmap.ImageReaderOptions()
        for names in groups.values():
            where = (str(self.database), str(self.images), names)
            self._watched(
                "features",
                len(self.names),
                lambda: self._count("keypoints"),
                lambda token, where=where: self.pycolmap.extract_features(
                    *where, single, reader, options, cpu, cancellation_token=token
                ),
            )

    def _matches(self, matching: Matching) -> None:
        n = len(self.names)
        options = self.pycolmap.FeatureMatchingOptions()
        options.num_threads = self.threads
        exhaustive = n <= _MOST_EXHAUSTIVE if matching == "auto" else matching == "exhaustive"
        if exhaustive:
            match, pairing, total = self.pycolmap.match_exhaustive, None, n * (n - 1) // 2
        else:
            match, total = self.pycolmap.match_sequential, _sequential_pairs(n)
            pairing = self.pycolmap.SequentialPairingOptions()
            pairing.overlap, pairing.num_threads = _OVERLAP, self.threads
        extra = {} if pairing is None else {"pairing_options": pairing}
        self._watched(
            "matches",
            total,
            lambda: self._count("two_view_geometries"),
            lambda token: match(
                str(self.database),
                options,
                **extra,
                device=self.pycolmap.Device.cpu,
                cancellation_token=token,
            ),
        )

    def _map(self, angle: float, common: int) -> list[Any]:
        options = self.pycolmap.IncrementalPipelineOptions()
        options.num_threads, options.random_seed = self.threads, self.seed
        options.min_model_size = _FEWEST
        options.mapper.init_min_tri_angle = angle
        options.mapper.init_min_num_inliers = common
        placed = [0]

        def first_pair() -> None:
            placed[0] = 2

        def next_photo() -> None:
            placed[0] += 1

        found = self._watched(
            "cameras",
            len(self.names),
            lambda: placed[0],
            lambda token: self.pycolmap.incremental_mapping(
                str(self.database),
                str(self.images),
                str(self.work / f"maps-{angle}"),
                options,
                initial_image_pair_callback=first_pair,
                next_image_callback=next_photo,
                cancellation_token=token,
            ),
        )
        return list(found.values())

    def _count(self, table: str) -> int:
        """Rows of a table of the database, which another thread may be writing to."""
        with contextlib.suppress(sqlite3.Error):
            address = f"{self.database.absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0.1)) as database:
                return int(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
        return 0

    def _watched(
        self, stage: Stage, total: int, count: Callable[[], int], work: Callable[[Any], T]
    ) -> T:
        """Does work in a thread and reports how far it is; whatever interrupts us cancels it."""
        token = self.pycolmap.CancellationToken()
        reached = 0
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work, token)
            try:
                while not wait((future,), _POLL_SECONDS).done:
                    reached = max(reached, min(count(), total))
                    self.report(PosingProgress(stage, reached, total))
            except BaseException:
                token.cancel()
                raise
        try:
            result = future.result()
        except Exception as error:
            # Whatever goes wrong inside comes as one of several standard exceptions.
            raise ValueError(f"solve_poses: {stage}: pycolmap failed: {error}"[:500]) from error
        self.report(PosingProgress(stage, min(max(reached, count()), total), total))
        return result


def _sequential_pairs(n: int) -> int:
    """How many pairs sequential matching looks at."""
    steps = {*range(1, _OVERLAP + 1), *(2**k for k in range(_OVERLAP))}
    return sum(max(0, n - step) for step in steps)
