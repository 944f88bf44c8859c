"""What is in the checkout is what is installed, under the names that the code uses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegauge import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = ("producers", "processors", "sinks", "schemas")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS: dict[str, Any] = PROJECT["tool"]["setuptools"]


def _files() -> Iterator[tuple[str, Path]]:
    """Every file of the packages: its path in a wheel, and in the checkout."""
    for top in ("tidegauge", *FOLDERS):
        for file in sorted((ROOT / top).rglob("*")):
            # The links below tidegauge/ show the folders a second time.
            linked = top == "tidegauge" and file.relative_to(ROOT / top).parts[0] in FOLDERS
            if file.is_file() and "__pycache__" not in file.parts and not linked:
                inside = file.relative_to(ROOT).as_posix()
                yield (inside if top == "tidegauge" else f"tidegauge/{inside}"), file


def test_the_list_of_packages_is_the_tree() -> None:
    found = {
        Path(inside).parent.as_posix().replace("/", "."): file.parent.relative_to(ROOT).as_posix()
        for inside, file in _files()
        if file.name == "__init__.py"
    }
    folders = {
        name: SETUPTOOLS["package-dir"].get(name, name.replace(".", "/")) for name in SETUPTOOLS["packages"]
    }
    assert folders == found


def test_every_folder_with_code_is_a_package() -> None:
    for _, file in _files():
        if file.suffix == ".py":
            assert (file.parent / "__init__.py").is_file(), file


def test_the_links_for_editors_lead_to_the_folders() -> None:
    links = {
        path.name: path.readlink().as_posix() for path in (ROOT / "tidegauge").iterdir() if path.is_symlink()
    }
    assert links == {folder: f"../{folder}" for folder in FOLDERS}


def test_the_version_is_said_in_one_voice() -> None:
    assert PROJECT["project"]["version"] == __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # In a copy: setuptools leaves a folder build/ where it builds, and takes up what an older one holds.
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("tidegauge", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, timeout=240)
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_every_file_under_the_packages_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert inside == {name for name, _ in _files()}
    assert len(licences) == 1


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout_with_the_base_packages_alone(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)

    install = run(str(binaries / "python"), "-m", "pip", "install", "--quiet", str(wheel))
    assert install.returncode == 0, install.stderr

    tidegauge = str(binaries / "tidegauge")
    assert run(tidegauge, "--version").stdout == f"tidegauge {__version__}\n"
    for command in ("topics", "deadletter", "replay", "simulate"):
        assert run(tidegauge, command, "--help").returncode == 0, command
    # What needs more says so, and how to get it.
    worker = run(tidegauge, "worker")
    assert worker.returncode == 1
    assert worker.stderr.count("\n") == 1
    assert "pip install 'tidegauge[" in worker.stderr
    # The source must be the wheel, and the names must be the package's own.
    program = (
        "import importlib.util, tidegauge.producers, tidegauge.schemas.documents;"
        f"assert not any(importlib.util.find_spec(name) for name in {FOLDERS});"
        "print(tidegauge.producers.__file__)"
    )
    source = run(str(binaries / "python"), "-c", program)
    assert source.stdout.startswith(str(tmp_path / "venv")), source.stderr
