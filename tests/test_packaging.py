# SPDX-License-Identifier: Apache-2.0
"""The package as users get it: wheel, editable install, cost of the import, needed symbols."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import tomllib
from fieldline.cuda import library

import fieldline

# They share the build folder: one worker runs them all.
pytestmark = pytest.mark.xdist_group("packaging")

ROOT = Path(__file__).resolve().parent.parent
ALLOWED_SYMBOLS = ROOT / "tests" / "data" / "torch_2_10_symbols.txt"

# What a user's program would do first with a fresh install.
SMOKE = """
import json, torch, fieldline
from fieldline.cuda import library
library.load()
print(json.dumps({
    "version": fieldline.__version__,
    "package": fieldline.__file__,
    "library": str(library.loaded()["_C"]),
    "isa": torch.ops.fieldline.core_isa(),
}))
"""


def run(command: list[str], **settings: object) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python(code: str, **settings: object) -> str:
    """The output of ``code`` in a new interpreter of this environment."""
    return run([sys.executable, "-P", "-c", code], **settings)


def fresh_environment(folder: Path) -> Path:
    """A new virtual environment that sees this one's packages but not its fieldline."""
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    purelib = run(
        [str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    )
    # A plain line of a .pth file adds a folder without running the .pth files inside it, so the
    # editable fieldline of this environment stays unknown there.
    Path(purelib.strip(), "torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def install(interpreter: Path, *arguments: str) -> None:
    """Installs into the fresh environment with this environment's pip and build tools."""
    tools = str(Path(sys.executable).parent)
    path = os.pathsep.join([tools, os.environ.get("PATH", "")])
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet"]
    # The other copy is this environment's: never to be uninstalled from there.
    flags = ["--no-deps", "--no-build-isolation", "--ignore-installed"]
    run([*pip, *flags, *arguments], env={**os.environ, "PATH": path})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(folder), str(ROOT)])
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_serves_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"fieldline-[^-]+-py3-none-.+\.whl", wheel.name), wheel.name


def test_wheel_holds_all_parts(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        f"fieldline/{path.relative_to(ROOT)}"
        for part in ("cuda", "representations", "tracers", "datasets", "engine")
        for path in (ROOT / part).rglob("*.py")
    }
    sources |= {str(path.relative_to(ROOT)) for path in (ROOT / "fieldline").rglob("*.py")}
    assert sources <= names, sorted(sources - names)
    assert {"fieldline/py.typed", "fieldline/cuda/_C.so", "fieldline/cuda/build.json"} <= names
    strays = [name for name in names if name.endswith(".py") and name not in sources]
    assert strays == []


def test_source_archive_holds_what_it_is_built_from(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    run(command, cwd=ROOT)
    (archive,) = tmp_path.glob("fieldline-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[-1] for name in opened.getnames()}
    sources = {
        str(path.relative_to(ROOT))
        for pattern in ("*.h", "*.cpp", "*.cu", "*.py")
        for path in (ROOT / "cuda").rglob(pattern)
    }
    assert sources <= names, sorted(sources - names)
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "fieldline/py.typed"} <= names
    assert not any(name.endswith(".so") for name in names)


def test_wheel_imports_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    interpreter = fresh_environment(tmp_path / "venv")
    install(interpreter, str(wheel))
    seen = json.loads(run([str(interpreter), "-P", "-c", SMOKE], cwd=tmp_path))
    assert Path(seen["package"]).is_relative_to(tmp_path)
    assert Path(seen["library"]).is_relative_to(tmp_path)
    assert seen["version"] == fieldline.__version__
    assert (interpreter.parent / "fieldline").exists()


def test_editable_install_imports_in_a_fresh_environment(tmp_path: Path) -> None:
    interpreter = fresh_environment(tmp_path / "venv")
    install(interpreter, "--editable", str(ROOT))
    seen = json.loads(run([str(interpreter), "-P", "-c", SMOKE], cwd=tmp_path))
    assert Path(seen["package"]) == ROOT / "fieldline" / "__init__.py"
    assert Path(seen["library"]) == ROOT / "cuda" / "_C.so"


def test_root_is_not_importable() -> None:
    assert str(ROOT) not in [str(Path(entry).resolve()) for entry in sys.path if entry]
    code = """
import importlib.util
for name in ("cuda", "datasets", "engine", "representations", "tracers"):
    spec = importlib.util.find_spec(name)
    print(name, spec.origin if spec else None)
"""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    found = run([sys.executable, "-c", code], cwd=ROOT, env=environment)
    assert str(ROOT) not in found.replace(str(ROOT / ".venv"), "")


def test_import_is_light() -> None:
    code = """
import sys, time
start = time.process_time()
import fieldline
print(time.process_time() - start, "torch" in sys.modules, "numpy" in sys.modules)
"""
    seconds, *heavy = python(code).split()
    assert float(seconds) < 1.0
    assert heavy == ["False", "False"]


def test_names_load_without_compiling_or_touching_a_gpu() -> None:
    code = """
import sys, torch

def forbid(event, arguments):
    if event in ("subprocess.Popen", "os.posix_spawn", "os.system", "os.fork"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(forbid)
import fieldline
for name in fieldline.__all__:
    getattr(fieldline, name)
print(torch.cuda.is_initialized(), "matplotlib" in sys.modules)
"""
    assert python(code).split() == ["False", "False"]


def test_face_lists_what_it_has() -> None:
    tree = (ROOT / "fieldline" / "__init__.py").read_text()
    for name in fieldline.__all__:
        assert getattr(fieldline, name) is not None
        assert re.search(rf"\b{name}\b", tree.split("# Where each name lives")[0]), name
    assert set(fieldline.__all__) == set(dir(fieldline))
    with pytest.raises(AttributeError, match="no_such_name"):
        fieldline.no_such_name


def undefined_symbols(path: Path) -> list[str]:
    """Names that a library leaves to others and whose owner, by symbol version, is not the system.

    ``nm`` writes ``U name@VERSION``; libc, libstdc++ and libgcc version all of theirs, torch none.
    """
    lines = run(["nm", "--dynamic", "--undefined-only", str(path)]).splitlines()
    fields = [line.split() for line in lines]
    return [name for kind, name in fields if kind == "U" and "@" not in name]


def allowed_symbols() -> set[str]:
    lines = ALLOWED_SYMBOLS.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize("name", ["_C", "_C_cuda", "_C_emulated"])
def test_libraries_need_only_what_torch_2_10_had(name: str) -> None:
    path = library.FOLDER / f"{name}.so"
    if not path.exists():
        pytest.skip(f"{name} was not built")
    built = json.loads((library.FOLDER / "build.json").read_text())
    if built["address_sanitizer"] == "ON":
        pytest.skip("a build with AddressSanitizer asks for its runtime's names too")
    needed = undefined_symbols(path)
    assert any("torch" in symbol for symbol in needed), "nm found nothing: the test is blind"
    assert set(needed) - allowed_symbols() == set()


def test_a_newer_symbol_would_be_caught(tmp_path: Path) -> None:
    source = tmp_path / "newer.cpp"
    source.write_text(
        'extern "C" int torch_new_stable_ivalue(); int f() { return torch_new_stable_ivalue(); }'
    )
    built = tmp_path / "newer.so"
    run(["g++", "-shared", "-fPIC", "-o", str(built), str(source)])
    assert set(undefined_symbols(built)) - allowed_symbols() == {"torch_new_stable_ivalue"}


def test_libraries_name_torch_as_needed() -> None:
    text = run(["readelf", "--dynamic", str(library.FOLDER / "_C.so")])
    assert "libtorch_cpu.so" in text
    assert "RUNPATH" not in text and "RPATH" not in text
    cuda = library.FOLDER / "_C_cuda.so"
    if cuda.exists():
        text = run(["readelf", "--dynamic", str(cuda)])
        assert "libtorch_cuda.so" in text
        assert "libcudart" not in text


def test_versions_are_pinned_for_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(item for group in groups.values() for item in group)]
    names = {re.split(r"[\s<>=\[;]", item)[0].lower() for item in wanted} - {"fieldline"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert names - pinned == set()
