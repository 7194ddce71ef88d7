"""The wheels for another system: which ones it needs, and downloading them with pip.

pip compares the markers in requirements with the machine it runs on, so what only other systems
need is found here. `uv pip compile --python-platform` finds the same wheels (compared for all
platforms below with Python 3.11 and 3.12), in 1 to 13 s instead of 0.3 to 0.6; but it does not read
pip's configuration, which names where torch's CPU build comes from, and is 38 MB more for everyone.
"""

import email
import subprocess
import sys
import zipfile

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

# glibc 2.28 is that of RHEL 8; pip wants every older tag named, too.
LINUX = [f"manylinux_2_{minor}" for minor in range(28, 16, -1)] + ["manylinux2014", "linux"]
PLATFORMS = {  # pip's tags, and what markers such as `sys_platform == "win32"` are compared with
    "linux-x86_64": ([f"{tag}_x86_64" for tag in LINUX], "linux", "Linux", "posix", "x86_64"),
    "macos-arm64": (["macosx_14_0_arm64"], "darwin", "Darwin", "posix", "arm64"),
    "windows-x86_64": (["win_amd64"], "win32", "Windows", "nt", "AMD64"),
}


class WheelError(RuntimeError):
    """A wheel cannot be had; the message says for which system, and why."""


def environment(platform, python):
    """What the markers in requirements are compared with, as {name: text}.

    platform: a name in PLATFORMS; python: a series, e.g. "3.11".
    """
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


def missing(folder, pins, markers):
    """Requirements (sorted list of str) that the wheels in a folder (Path) still need.

    All that they need in turn is looked through. pins: requirements as text, the ones to be
    installed; markers: from `environment`.
    """
    needs = {}
    for wheel in folder.glob("*.whl"):
        needs[parse_wheel_filename(wheel.name)[0]] = metadata(wheel).get_all("Requires-Dist", [])
    lacking, seen = {}, set()
    queue = [Requirement(pin) for pin in pins]
    while queue:
        wanted = queue.pop()
        name = canonicalize_name(wanted.name)
        if name not in needs:
            lacking[name] = lacking.get(name, wanted.specifier) & wanted.specifier
            continue
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue += _applying(needs[name], {**markers, "extra": extra})
    return sorted(f"{name}{specifier}" for name, specifier in lacking.items())


def _applying(requirements, markers):
    """Those of a package's requirements (list of str) that apply (list of Requirement)."""
    parsed = [Requirement(text) for text in requirements]
    return [r for r in parsed if r.marker is None or r.marker.evaluate(markers)]


def lowest(folder, python):
    """The first version of a series, e.g. "3.11", that all wheels in `folder` allow (str)."""
    allowed = SpecifierSet()
    for wheel in folder.glob("*.whl"):
        allowed &= SpecifierSet(metadata(wheel)["Requires-Python"] or "")
    versions = (f"{python}.{patch}" for patch in range(100))
    return next(version for version in versions if version in allowed)


def download(folder, platform, python, pins):
    """Put into `folder` (Path) every wheel that the requirements `pins` need on another system.

    platform, python: as for `environment`. Raises WheelError.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--implementation", "cp", "--python-version", f"{python}.99"]
    for tag in PLATFORMS[platform][0]:
        command += ["--platform", tag]
    wanted = pins
    while wanted:
        done = subprocess.run([*command, *wanted], check=False, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = errors[-1].removeprefix("ERROR: ") if errors else "no reason given"
            raise WheelError(f"No wheels for {platform}, Python {python}: {reason}")
        wanted = missing(folder, pins, environment(platform, python))
