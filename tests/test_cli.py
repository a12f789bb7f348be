# SPDX-License-Identifier: Apache-2.0
"""Every command on a tiny scene: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fieldline.datasets import synthetic
from fieldline.representations.camera_path import CameraPath
from PIL import Image

import fieldline as fl
from fieldline.cli import main

COMMANDS = ("demo", "reconstruct", "init", "render", "eval", "convert", "info", "doctor")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    return synthetic.write(folder / "photos", 8, 40, 30, n_points=200)


@pytest.fixture(scope="module")
def run_folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["reconstruct", str(photos), "-o", str(folder), "--steps", "60"]
    assert main([*arguments, "--splats", "400", "--checkpoint-every", "25", "--json"]) == 0
    return folder


@pytest.fixture
def splats(tmp_path: Path) -> Path:
    path = tmp_path / "splats.ply"
    fl.save(fl.Gaussians3D.random(50, seed=0), path)
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict:
    """What a command prints with --json."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command refuses with."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    lines = [line for line in streams.err.splitlines() if "warning" not in line]
    assert len(lines) == 1, streams.err
    assert lines[0].startswith("fieldline: error: ")
    return lines[0]


# -- the command itself ----------------------------------------------------------------------------


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"fieldline {command}" in capsys.readouterr().out


def test_wrong_arguments_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["render", "--circle", "many"])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"fieldline {fl.__version__}"


def test_help_loads_no_torch() -> None:
    code = """
import sys
from fieldline.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print("torch" in sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDLINE_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["info", "no/such/file.ply"])


# -- doctor ----------------------------------------------------------------------------------------


def test_doctor_reports_a_working_core(capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "doctor")
    assert report["core"]["works"] is True
    assert Path(report["core"]["loaded"]["_C"]).exists()
    assert report["core"]["instruction_set"] in ("baseline", "avx2", "avx512")
    assert report["torch"]["version"] == torch.__version__
    for package in report["optional"]:
        assert (package["version"] is None) == (package["remedy"] is not None)


def test_doctor_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert fl.__version__ in text
    assert "instruction set" in text


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_doctor_names_the_level_in_use(level: str) -> None:
    code = "import sys; from fieldline.cli import main; sys.exit(main(['doctor', '--json']))"
    command = [sys.executable, "-P", "-c", code]
    environment = {**os.environ, "FIELDLINE_ISA": level}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    levels = ["baseline", "avx2"]
    used = json.loads(done.stdout)["core"]["instruction_set"]
    assert levels.index(used) <= levels.index(level)


def test_doctor_finds_a_broken_core(tmp_path: Path) -> None:
    (tmp_path / "_C.so").write_bytes(b"no library")
    code = "import sys; from fieldline.cli import main; sys.exit(main(['doctor', '--json']))"
    command = [sys.executable, "-P", "-c", code]
    environment = {**os.environ, "FIELDLINE_LIBRARY_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert json.loads(done.stdout)["core"]["works"] is False


def test_doctor_knows_which_gpu_code_runs_where() -> None:
    from fieldline.cli.doctor import covers

    assert covers(["80", "90"], "80")
    assert covers(["80", "90"], "86")
    assert covers(["80", "90"], "100")
    assert not covers(["80", "90"], "75")
    assert not covers([], "90")


# -- info and convert ------------------------------------------------------------------------------


def test_info_of_splats(splats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "info", splats)
    assert (facts["kind"], facts["splats"], facts["sh_degree"]) == ("Gaussians3D", 50, 3)
    assert main(["info", str(splats)]) == 0
    assert "Gaussians3D" in capsys.readouterr().out


def test_info_of_photos(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "info", photos)
    assert (facts["views"], facts["train"], facts["test"]) == (8, 7, 1)
    assert facts["sizes"] == ["40 x 30"]
    assert facts["points"] == 200
    assert answer(capsys, "info", photos / "transforms.json")["views"] == 8


def test_info_of_a_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "info", run_folder)
    assert facts["kind"] == "run"
    assert facts["metrics"]["step"] == 60
    assert facts["config"]["fit"]["steps"] == 60


def test_convert_and_back(splats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, back = tmp_path / "splats.safetensors", tmp_path / "back.ply"
    assert answer(capsys, "convert", splats, other)["count"] == 50
    assert main(["convert", str(other), str(back)]) == 0
    assert back.read_bytes() == splats.read_bytes()


def test_convert_does_not_replace(
    splats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target.splat"
    target.write_bytes(b"precious")
    assert "--overwrite" in refusal(capsys, "convert", splats, target)
    assert target.read_bytes() == b"precious"
    assert main(["convert", str(splats), str(target), "--overwrite"]) == 0
    assert len(fl.load(target)) == 50


@pytest.mark.parametrize("command", ["info", "eval"])
def test_missing_input(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no/such" in refusal(capsys, command, "no/such/file.ply")


def test_broken_input_names_file_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.ply"
    broken.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\n")
    assert str(broken) in refusal(capsys, "info", broken)
    (tmp_path / "unknown.xyz").write_bytes(b"?")
    assert ".xyz" in refusal(capsys, "convert", tmp_path / "unknown.xyz", tmp_path / "a.ply")


# -- reconstruct and eval --------------------------------------------------------------------------


def test_reconstruct_leaves_a_run(run_folder: Path, photos: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert {"config.json", "metrics.json", "scene.ply", "views.png", "curve.png"} <= names
    assert list((run_folder / "checkpoints").iterdir())
    config = json.loads((run_folder / "config.json").read_text())
    assert config["input"]["photos"] == str(photos.resolve())
    assert config["fit"]["max_splats"] == 400


def test_eval_agrees_with_the_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = answer(capsys, "eval", run_folder)
    recorded = json.loads((run_folder / "metrics.json").read_text())["test"]
    assert measured["mean"]["psnr"] == pytest.approx(recorded["mean"]["psnr"], abs=1e-3)
    assert measured["views"][0]["name"] == recorded["views"][0]["name"]
    assert len(answer(capsys, "eval", run_folder, "--views", "all")["views"]) == 8


def test_eval_needs_photos(splats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--photos" in refusal(capsys, "eval", splats)


def test_eval_of_a_file_on_photos(
    splats: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "eval", splats, "--photos", photos, "--downscale", "2")
    assert found["splats"] == 50
    assert len(found["views"]) == 1


def test_reconstruct_refuses_a_folder_with_a_run(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "scene.ply").read_bytes()
    assert str(run_folder) in refusal(capsys, "reconstruct", photos, "-o", run_folder)
    assert (run_folder / "scene.ply").read_bytes() == before


def test_reconstruct_refuses_overwrite_with_resume(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "reconstruct", photos, "-o", run_folder, "--overwrite", "--resume")
    assert "--resume" in line


def test_reconstruct_needs_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    refusal(capsys, "reconstruct", tmp_path / "empty", "-o", tmp_path / "run")
    refusal(capsys, "reconstruct", tmp_path / "missing", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_overwrite_replaces_a_run(photos: Path, tmp_path: Path) -> None:
    arguments = ["reconstruct", str(photos), "-o", str(tmp_path / "run"), "--json"]
    assert main([*arguments, "--steps", "5"]) == 0
    assert main([*arguments, "--steps", "6", "--overwrite"]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 6


def test_resume_goes_on(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reconstruct", photos, "-o", tmp_path / "run", "--downscale", "2"]
    answer(capsys, *arguments, "--steps", "20", "--checkpoint-every", "10")
    answer(capsys, "reconstruct", photos, "-o", tmp_path / "run", "--resume", "--steps", "30")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 30
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["input"]["downscale"] == 2.0


def test_interrupt_writes_a_checkpoint(photos: Path, tmp_path: Path) -> None:
    code = "import sys; from fieldline.cli import main; sys.exit(main())"
    arguments = ["reconstruct", str(photos), "-o", str(tmp_path / "run"), "--steps", "1000000"]
    command = [sys.executable, "-P", "-c", code, *arguments, "--checkpoint-every", "0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        config = tmp_path / "run" / "config.json"
        deadline = time.monotonic() + 120
        # The photos are added to config.json once training has begun, and so catches Ctrl-C.
        while not (config.exists() and "input" in config.read_text()):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume" in out
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))


def test_demo_makes_measures_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fieldline.cli import demo

    for name, value in (("VIEWS", 8), ("WIDTH", 40), ("HEIGHT", 30), ("POINTS", 100)):
        monkeypatch.setattr(demo, name, value)
    folder = tmp_path / "demo"
    assert main(["demo", "-o", str(folder), "--steps", "20"]) == 0
    text = capsys.readouterr().out
    assert "PSNR" in text and "views.png" in text
    assert (folder / "photos" / "transforms.json").exists()
    assert str(folder) in refusal(capsys, "demo", "-o", folder)
    assert answer(capsys, "demo", "-o", folder, "--steps", "10", "--overwrite")["step"] == 10


def test_demo_deletes_only_what_a_demo_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "photos" / "holiday.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"precious")
    assert "holiday.jpg" in refusal(capsys, "demo", "-o", tmp_path, "--overwrite")
    assert mine.read_bytes() == b"precious"


# -- render ----------------------------------------------------------------------------------------


def sizes(folder: Path) -> list[tuple[int, int]]:
    return [Image.open(path).size for path in sorted(folder.glob("*.png"))]


def test_render_the_test_views_of_a_run(run_folder: Path, tmp_path: Path) -> None:
    assert main(["render", str(run_folder), "-o", str(tmp_path / "out")]) == 0
    assert sizes(tmp_path / "out") == [(40, 30)]
    picture = np.asarray(Image.open(next((tmp_path / "out").glob("*.png")))).astype(float)
    scene = fl.datasets.load(
        json.loads((run_folder / "config.json").read_text())["input"]["photos"]
    )
    truth = scene.test[0].rgb(scene.background).numpy() * 255
    assert np.abs(picture - truth).mean() < 40


def test_render_a_circle_of_a_file(splats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["render", str(splats), "-o", str(out), "--circle", "3"]
    assert main([*arguments, "--width", "32", "--height", "24"]) == 0
    assert sizes(out) == [(32, 24)] * 3
    assert all(np.asarray(Image.open(path)).any() for path in out.glob("*.png"))


def test_render_a_circle_of_a_run(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["render", str(run_folder), "-o", str(out), "--circle", "2", "--width", "20"]) == 0
    assert [size[0] for size in sizes(out)] == [20, 20]


def test_render_a_camera_path(splats: Path, tmp_path: Path) -> None:
    flight = CameraPath.circle(((-1, -1, -1), (1, 1, 1)), 4, width=24, height=16, fps=10)
    fl.save(flight, tmp_path / "path.json")
    arguments = ["render", str(splats), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--path", str(tmp_path / "path.json")]) == 0
    assert sizes(tmp_path / "out") == [(24, 16)] * 4


def test_render_a_video(splats: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    video = tmp_path / "out.mp4"
    arguments = ["render", str(splats), "-o", str(video), "--circle", "5", "--fps", "10"]
    assert main([*arguments, "--width", "33", "--height", "25"]) == 0
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
        assert (frames[0].width, frames[0].height) == (32, 24)
        assert float(container.streams.video[0].average_rate) == 10
    assert len(frames) == 5


def test_render_background_fills_the_empty(tmp_path: Path) -> None:
    fl.save(fl.Gaussians3D.random(1, seed=0).pruned(min_opacity=2.0), tmp_path / "none.ply")
    flight = CameraPath.circle(((-1, -1, -1), (1, 1, 1)), 1, width=8, height=8)
    fl.save(flight, tmp_path / "path.json")
    arguments = ["render", str(tmp_path / "none.ply"), "-o", str(tmp_path / "out")]
    options = ["--path", str(tmp_path / "path.json"), "--background", "1", "0", "0"]
    assert main([*arguments, *options]) == 0
    (picture,) = (tmp_path / "out").glob("*.png")
    assert np.unique(np.asarray(Image.open(picture)).reshape(-1, 3), axis=0).tolist() == [
        [255, 0, 0]
    ]


def test_render_refusals(splats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "a.png").write_bytes(b"precious")
    assert "--overwrite" in refusal(capsys, "render", splats, "-o", taken, "--circle", "1")
    assert (taken / "a.png").read_bytes() == b"precious"
    out = tmp_path / "out"
    assert "--circle" in refusal(capsys, "render", splats, "-o", out, "--circle", "0")
    assert "one of" in refusal(
        capsys, "render", splats, "-o", out, "--circle", "1", "--views", "all"
    )
    assert "--photos" in refusal(capsys, "render", splats, "-o", out, "--views", "all")
    assert ".gif" in refusal(capsys, "render", splats, "-o", tmp_path / "a.gif", "--circle", "1")
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"camera_path": [], "render_width": 8, "render_height": 8}')
    assert "camera_path" in refusal(capsys, "render", splats, "-o", out, "--path", wrong)
    assert not out.exists()
