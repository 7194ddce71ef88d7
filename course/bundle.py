"""One archive for a classroom without network: repository, wheels, default model, checksums.

classroom/README.md goes on top of the archive and says how to install it.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

from packaging.version import Version

from course import catch_up, wheels
from helpers import machine
from helpers.model import default_model
from helpers.records import files, folders, manifests


class BundleError(RuntimeError):
    """The archive cannot be made; the message says why and what to do."""


def repository(folder):
    """Write the tracked files of the last commit into `folder` (Path); returns the commit (str)."""
    try:
        commit = _git("rev-parse", "HEAD").decode().strip()
        archive = _git("archive", "--format=tar", commit)
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        raise BundleError(
            f"{folders.REPOSITORY} is not a git repository with a commit: clone it anew."
        ) from None
    if changed:
        print("Changes that are not committed are left out.", flush=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tracked:
        tracked.extractall(folder, filter="data")
    return commit


def _git(*words):
    """What git prints (bytes) in the repository; raises CalledProcessError."""
    command = ["git", "-C", str(folders.REPOSITORY), *words]
    return subprocess.run(command, check=True, capture_output=True).stdout


def add_run(run_dir, course):
    """Copy what catching up needs of a finished run into the unpacked repository (Paths).

    Raises BundleError when it is not whole or its data would not be there.
    """
    for notebook in catch_up.COPIED:
        parameters = manifests.read_manifest(run_dir, notebook)["parameters"]
        problem = catch_up.unusable(notebook, run_dir, parameters)
        if problem:
            raise BundleError(f"--run {run_dir}: {problem}.")
    data = Path(manifests.read_manifest(run_dir, "01_data")["parameters"]["data_path"])
    if data.is_absolute() or not (course / "notebooks" / data).exists():
        raise BundleError(
            f"--run {run_dir}: its data, {data}, is not in the repository: commit the file, name "
            "it in 01, run again."
        )
    (course / "runs" / "finished").mkdir(parents=True)
    for notebook in catch_up.COPIED:
        catch_up.copy(notebook, run_dir, course / "runs" / "finished")


def _all_files(folder):
    """The files in `folder` (Path) and below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def seal(top):
    """Write SHA256SUMS (as sha256sum does) over all files in the folder `top` (Path)."""
    lines = []
    for path in _all_files(top):
        lines.append(f"{files.sha256(path)}  {path.relative_to(top).as_posix()}\n")
    (top / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")


def pack(top, target):
    """Write the folder `top` as the zip file `target` (Paths), which appears when it is whole."""
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for path in _all_files(top):
                is_packed = path.suffix in (".whl", ".safetensors", ".png")
                kind = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
                archive.write(path, path.relative_to(top.parent), compress_type=kind)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def make(platforms, pythons, run="", out=""):
    """Make the archive; returns its Path.

    platforms: names in wheels.PLATFORMS; pythons: series, e.g. "3.11" (lists of str); run: a
    finished run directory to add, or ""; out: the archive's path, or "" for one in build/. Raises
    BundleError, WheelError or ModelError, and ArtefactError when another process is making one in
    the same folder.
    """
    pyproject = (folders.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(pyproject)["project"]
    name = f"{project['name']}-{project['version']}"
    usual = folders.REPOSITORY / "build" / f"{name}-{'-'.join(platforms)}.zip"
    out = Path(out or usual).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = folders.hold(out.parent)
    try:
        for leftover in out.parent.glob(".bundle-*"):  # of one that was killed
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.parent) as work:
            fill(Path(work), name, platforms, pythons, run)
            pack(Path(work) / name, out)
    finally:
        lock.release(force=True)
    return out


def fill(work, name, platforms, pythons, run):
    """Put what belongs into the archive into the folder `name` in `work` (an empty folder, Path).

    The others, and what is raised: as for `make`.
    """
    top = work / name
    commit = repository(top / "course")
    for file in ("README.md", "install.py"):
        shutil.move(top / "course" / "classroom" / file, top / file)
    if run:
        add_run(Path(run).resolve(), top / "course")
    (top / "wheels").mkdir()
    first_versions = add_wheels(work, top / "wheels", platforms, pythons)
    print("the default model", flush=True)
    _move_into(top / "wheels", default_model.download_wheel(work))
    about = {"commit": commit, "platforms": list(platforms), "python": first_versions}
    about["files"] = len(_all_files(top)) + 1  # bundle.json itself
    files.write_json(top / "bundle.json", about)
    seal(top)
    show_sizes(top)


def add_wheels(work, target, platforms, pythons):
    """Put the wheels for all platforms and series into `target`; work: a folder for them (Paths).

    Returns the first version of each series that all of its wheels allow (list of str).
    """
    pins = machine.requirements("requirements.txt")
    first_versions = dict.fromkeys(pythons, "0")
    for platform in platforms:
        for python in pythons:
            print(f"wheels for {platform}, Python {python}", flush=True)
            own = work / f"{platform}-{python}"
            own.mkdir()
            wheels.download(own, platform, python, pins)
            here = wheels.lowest(own, python)
            first_versions[python] = max(first_versions[python], here, key=Version)
            for wheel in own.iterdir():
                _move_into(target, wheel)
    return list(first_versions.values())


def _move_into(folder, path):
    os.replace(path, folder / path.name)


def show_sizes(top):
    """Print what is in the archive, by size, and which torch."""
    sizes = {path: path.stat().st_size for path in _all_files(top / "wheels")}
    course = [path.stat().st_size for path in _all_files(top / "course")]
    for part, bytes_of in (("wheels", list(sizes.values())), ("course", course)):
        print(f"{part:<10}{len(bytes_of):>6} files{sum(bytes_of) / 1e6:>9,.1f} MB")
    for wheel, size in sizes.items():
        if wheel.name.startswith("torch-"):
            print(f"{wheel.name}: {size / 1e6:,.0f} MB")
    cuda = [size for wheel, size in sizes.items() if wheel.name.startswith(("nvidia_", "triton-"))]
    if cuda:
        print(
            f"torch for Linux wants {len(cuda)} packages for NVIDIA GPUs, {sum(cuda) / 1e6:,.0f} "
            "MB. Without such GPUs in the room, name PyTorch's index of CPU builds to pip "
            "(PIP_EXTRA_INDEX_URL; see PyTorch's install page), and again."
        )


def bundle(platforms=(), pythons=(), run="", out=""):
    """Make the archive and say how large it is; returns the exit code, 1 when it cannot be made.

    As `make`; without platforms or pythons for the machine and the Python it runs on.
    """
    platforms = platforms or [machine.platform_name()]
    pythons = pythons or ["{}.{}".format(*sys.version_info)]
    if not set(platforms) <= set(wheels.PLATFORMS):
        print(
            f"{platforms[0]} is not among the platforms with wheels for all packages: "
            f"{', '.join(wheels.PLATFORMS)}.",
            file=sys.stderr,
        )
        return 1
    start = time.monotonic()
    try:
        path = make(platforms, pythons, run, out)
    except (
        BundleError,
        wheels.WheelError,
        default_model.ModelError,
        folders.ArtefactError,
    ) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"The archive cannot be written: {error.strerror}: {error.filename}. Nothing of it is "
            "left; mend that, then run again.",
            file=sys.stderr,
        )
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:,.0f} MB, made in {time.monotonic() - start:.0f} s")
    return 0
