# SPDX-License-Identifier: Apache-2.0
"""Matching networks as matchers: RoMa, RoMa v2 and DKM, where their package and weights are here.

The packages fetch weights from the network when they are given none. These classes never let them:
a weight file is named, by argument or environment variable, or the error says which is missing.

=========  ==========================  ====================================================
class      package                     weight files
=========  ==========================  ====================================================
`RoMa`     romatch                     FIELDLINE_ROMA_WEIGHTS, FIELDLINE_DINOV2_WEIGHTS
`RoMaV2`   romav2                      FIELDLINE_ROMAV2_WEIGHTS (and torch.hub's copy of the
                                       DINOv3 code, which romav2 asks torch.hub for)
`DKM`      dkm, of the DKM authors     FIELDLINE_DKM_WEIGHTS
=========  ==========================  ====================================================

The name `dkm` on PyPI is a placeholder that holds no network; DKM is installed from its authors'
repository.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...datasets import Scene, View
from .matcher import Correspondence


class _WarpNetwork(ABC):
    """What the networks share: they are loaded once, and warp one pair of images at a time."""

    package = ""

    def __init__(self, device: torch.device | str | None) -> None:
        usable = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(usable if device is None else device)
        self._network: Any = None

    def prepare(
        self, scene: Scene, references: Sequence[View], neighbours: Sequence[Sequence[View]]
    ) -> None:
        """Loads the network.

        Args:
            scene: Not used.
            references: Not used.
            neighbours: Not used.

        Raises:
            ImportError: If the package is not installed, or not the one that is meant.
            FileNotFoundError: If a weight file is not there.
            ValueError: If no weight file is named.
        """
        if self._network is None:
            self._network = self._load()

    def match(self, reference: View, neighbours: Sequence[View]) -> Correspondence:
        """Warps a view to each of its neighbours.

        Args:
            reference: The view.
            neighbours: At least one.

        Returns:
            Warps and certainties of the view's size.
        """
        if self._network is None:
            self._network = self._load()
        size = (reference.height, reference.width)
        warps, certainties = [], []
        for view in neighbours:
            with torch.inference_mode():
                warp, certainty = self._pair(_picture(reference), _picture(view))
            # From [-1, 1], whose ends are the image's outer edges, to pixels.
            scale = warp.new_tensor([view.width, view.height]) / 2
            planes = torch.cat(((warp + 1) * scale, certainty[..., None]), dim=-1)
            planes = planes.permute(2, 0, 1)[None].float()
            planes = F.interpolate(planes, size, mode="bilinear", align_corners=False)[0]
            warps.append(planes[:2].permute(1, 2, 0).cpu().clone())
            certainties.append(planes[2].clamp(0, 1).cpu().clone())
        return Correspondence(torch.stack(certainties), warp=torch.stack(warps))

    @abstractmethod
    def _load(self) -> Any:
        """The network, with its weights from the file that was named."""

    @abstractmethod
    def _pair(self, first: Image.Image, second: Image.Image) -> tuple[Tensor, Tensor]:
        """The warp [h, w, 2] in [-1, 1] from the first image to the second, certainty [h, w]."""

    def _module(self, attribute: str) -> Any:
        """The package's attribute of a name."""
        try:
            module = importlib.import_module(self.package)
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__}: the package {self.package} is not installed"
            ) from error
        if not hasattr(module, attribute):
            raise ImportError(
                f"{type(self).__name__}: expected a package {self.package} with {attribute}, got "
                "another of that name"
            )
        return getattr(module, attribute)


class RoMa(_WarpNetwork):
    """RoMa, through the package `romatch`.

    Args:
        weights: File of RoMa's weights; default the one that FIELDLINE_ROMA_WEIGHTS names.
        backbone: File of DINOv2 ViT-L/14's weights; default FIELDLINE_DINOV2_WEIGHTS.
        indoor: Whether the weights are those for indoor scenes.
        device: Where it runs; default the GPU if there is one.

    Source:
        Edstedt et al., RoMa: Robust Dense Feature Matching, CVPR 2024.

    Example:
        >>> RoMa(weights="roma.pth", device="cpu").package
        'romatch'
    """

    package = "romatch"

    def __init__(
        self,
        weights: str | Path | None = None,
        backbone: str | Path | None = None,
        *,
        indoor: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device)
        self.weights, self.backbone, self.indoor = weights, backbone, indoor

    def _load(self) -> Any:
        make = self._module("roma_indoor" if self.indoor else "roma_outdoor")
        weights = _read_weights("RoMa", "weights", self.weights, "FIELDLINE_ROMA_WEIGHTS")
        backbone = _read_weights("RoMa", "backbone", self.backbone, "FIELDLINE_DINOV2_WEIGHTS")
        # Half precision needs a GPU; so does the compiled correlation.
        on_gpu = self.device.type == "cuda"
        return make(
            device=self.device,
            weights=weights,
            dinov2_weights=backbone,
            symmetric=False,
            upsample_preds=False,
            use_custom_corr=on_gpu,
            amp_dtype=torch.float16 if on_gpu else torch.float32,
        )

    def _pair(self, first: Image.Image, second: Image.Image) -> tuple[Tensor, Tensor]:
        warp, certainty = self._network.match(first, second, device=self.device)
        return _from_pair_warp(warp, certainty)


class RoMaV2(_WarpNetwork):
    """RoMa v2, through the package `romav2`.

    Args:
        weights: File of its weights; default the one that FIELDLINE_ROMAV2_WEIGHTS names.
        setting: Of the package: "turbo", "fast", "base" or "precise".

    Example:
        >>> RoMaV2(weights="romav2.pt").setting
        'fast'
    """

    package = "romav2"

    def __init__(self, weights: str | Path | None = None, *, setting: str = "fast") -> None:
        # The package chooses the device itself.
        super().__init__(None)
        self.weights, self.setting = weights, setting

    def _load(self) -> Any:
        make = self._module("RoMaV2")
        weights = _read_weights("RoMaV2", "weights", self.weights, "FIELDLINE_ROMAV2_WEIGHTS")
        with _hub_without_network(weights):
            network = make()
        network.apply_setting(self.setting)
        return network

    def _pair(self, first: Image.Image, second: Image.Image) -> tuple[Tensor, Tensor]:
        found = self._network.match(first, second)
        warp, overlap = found["warp_AB"], found["overlap_AB"]
        return warp.reshape(warp.shape[-3:]), overlap.reshape(overlap.shape[-3:-1])


class DKM(_WarpNetwork):
    """DKM v3, through its authors' package `dkm`.

    Args:
        weights: File of its weights; default the one that FIELDLINE_DKM_WEIGHTS names.
        indoor: Whether they are those for indoor scenes.
        device: Where it runs; default the GPU if there is one.

    Source:
        Edstedt et al., DKM: Dense Kernelized Feature Matching for Geometry Estimation, CVPR 2023.

    Example:
        >>> DKM(weights="dkm.pth", device="cpu").package
        'dkm'
    """

    package = "dkm"

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        indoor: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device)
        self.weights, self.indoor = weights, indoor

    def _load(self) -> Any:
        make = self._module("DKMv3_indoor" if self.indoor else "DKMv3_outdoor")
        path = _weight_file("DKM", "weights", self.weights, "FIELDLINE_DKM_WEIGHTS")
        return make(path_to_weights=str(path), device=self.device)

    def _pair(self, first: Image.Image, second: Image.Image) -> tuple[Tensor, Tensor]:
        warp, certainty = self._network.match(first, second, device=self.device)
        return _from_pair_warp(warp, certainty)


def _from_pair_warp(warp: Tensor, certainty: Tensor) -> tuple[Tensor, Tensor]:
    """The half that goes from the first image to the second, of RoMa's and DKM's [.., h, w, 4].

    Symmetric networks put both halves side by side. In the left one, the first two numbers are the
    pixel of the first image.
    """
    warp = warp.reshape(warp.shape[-3:])
    certainty = certainty.reshape(certainty.shape[-2:])
    x = warp[0, :, 0]
    # The first image's x starts over where the second half begins.
    fold = (x[1:] < x[:-1]).nonzero()
    width = int(fold[0]) + 1 if len(fold) else warp.shape[1]
    width = warp.shape[1] // 2 if 2 * width == warp.shape[1] else warp.shape[1]
    return warp[:, :width, 2:], certainty[:, :width]


def _picture(view: View) -> Image.Image:
    rgb = (view.rgb() * 255).round().to(torch.uint8)
    return Image.fromarray(rgb.cpu().numpy())


def _weight_file(who: str, argument: str, given: str | Path | None, variable: str) -> Path:
    named = given if given is not None else os.environ.get(variable)
    if not named:
        raise ValueError(
            f"{who}: {argument}: expected a weight file, by argument or in {variable}, got none "
            "(nothing is downloaded)"
        )
    path = Path(named)
    if not path.is_file():
        raise FileNotFoundError(f"{who}: {argument}: expected a weight file, got {path}: not there")
    return path


def _read_weights(who: str, argument: str, given: str | Path | None, variable: str) -> Any:
    path = _weight_file(who, argument, given, variable)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{who}: {argument}: expected weights in {path}, got {error}") from error


@contextlib.contextmanager
def _hub_without_network(weights: Any) -> Iterator[None]:
    """While it lasts, torch.hub answers requests for weights with these, and loads only code that
    it holds already."""
    fetch, load = torch.hub.load_state_dict_from_url, torch.hub.load

    def load_held(repo_or_dir: str, *arguments: Any, **options: Any) -> Any:
        name = repo_or_dir.replace("/", "_").replace(":", "_")
        held = Path(torch.hub.get_dir()) / name
        if not held.is_dir():
            raise ImportError(
                f"RoMaV2: expected the code of {repo_or_dir} in torch.hub's folder, {held}, got "
                "none (nothing is downloaded)"
            )
        return load(str(held), *arguments, source="local", **_without(options, "skip_validation"))

    torch.hub.load_state_dict_from_url = lambda *_, **__: weights  # pyright: ignore
    torch.hub.load = load_held  # pyright: ignore
    try:
        yield
    finally:
        torch.hub.load_state_dict_from_url, torch.hub.load = fetch, load


def _without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}
