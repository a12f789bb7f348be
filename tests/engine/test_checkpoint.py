# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not there, and any bytes give one or a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fieldline.datasets import Scene
from fieldline.engine.training import FitConfig, find_checkpoint, load_checkpoint
from fieldline.engine.training.checkpoint import checkpoint_path, list_checkpoints, save_checkpoint
from fieldline.engine.training.trainer import Trainer
from hypothesis import given
from hypothesis import strategies as st

import fieldline as fl


@pytest.fixture(scope="module")
def trainer(scene: Scene) -> Trainer:
    model = fl.Gaussians3D.from_points(scene.points, sh_degree=1)
    trainer = Trainer(model, scene, FitConfig(steps=100, progress_every=2, refine_every=3))
    for _ in range(6):
        trainer.run_step()
    return trainer


@pytest.fixture(scope="module")
def written(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_checkpoint(trainer.checkpoint(), tmp_path_factory.mktemp("run")).read_bytes()


def test_round_trip_is_exact(trainer: Trainer, tmp_path: Path) -> None:
    saved = trainer.checkpoint()
    loaded = load_checkpoint(save_checkpoint(saved, tmp_path))
    for name in ("step", "seconds", "config", "views", "adam_steps", "running"):
        assert getattr(loaded, name) == getattr(saved, name), name
    for name in ("model", "adam", "random"):
        ours, theirs = getattr(loaded, name), getattr(saved, name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key
    assert torch.equal(loaded.history, saved.history)
    assert loaded.history[:, 0].tolist() == [2, 4, 6]


def test_only_the_last_ones_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    saved = trainer.checkpoint()
    for step in (10, 20, 30):
        saved.step = step
        save_checkpoint(saved, tmp_path, keep=2)
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, s) for s in (20, 30)]
    assert find_checkpoint(tmp_path) == checkpoint_path(tmp_path, 30)
    saved.step = 40
    save_checkpoint(saved, tmp_path, keep=0)
    assert len(list_checkpoints(tmp_path)) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_failed_write_leaves_the_old_one(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = trainer.checkpoint()
    path = save_checkpoint(saved, tmp_path)
    before = path.read_bytes()

    def full(tensors: object, name: Path, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("fieldline.engine.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, tmp_path)
    assert path.read_bytes() == before
    assert list_checkpoints(tmp_path) == [path]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_other_files_are_refused(tmp_path: Path, written: bytes) -> None:
    splats = tmp_path / "splats.safetensors"
    fl.save(fl.Gaussians3D.random(3, seed=0), splats)
    with pytest.raises(fl.FileFormatError, match="metadata format"):
        load_checkpoint(splats)
    path = tmp_path / "new.safetensors"
    path.write_bytes(written.replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(fl.FileFormatError, match="metadata version"):
        load_checkpoint(path)


def test_state_is_json_in_the_header(written: bytes) -> None:
    length = int.from_bytes(written[:8], "little")
    metadata = json.loads(written[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["state"])["config"]["steps"] == 100


@given(data=st.data())
def test_damaged_files_give_a_checkpoint_or_an_error(
    data: st.DataObject, written: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(written)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        header = int.from_bytes(written[:8], "little") + 8
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "c.safetensors"
    path.write_bytes(content)
    try:
        assert load_checkpoint(path).step >= 0
    except fl.FileFormatError as error:
        assert path.name in str(error)
