"""Set the course up from this folder alone, without network: python install.py

Needs Python 3.11 or newer and nothing else. First everything is compared with SHA256SUMS; only then is
course/.venv made, the packages are installed into it, and the default model is put into your cache folder.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

TOP = Path(__file__).resolve().parent
COURSE, WHEELS = TOP / "course", TOP / "wheels"


def problems():
    """What in this folder is missing or not as it was packed (list of str)."""
    try:
        lines = (TOP / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        wanted = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        number = json.loads((TOP / "bundle.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return ["SHA256SUMS or bundle.json is missing or damaged"]
    found = [] if len(wanted) == number else [f"SHA256SUMS names {len(wanted)} of {number} files"]
    found += [
        f"wheels/{path.name} was added"
        for path in WHEELS.glob("*")
        if f"wheels/{path.name}" not in wanted
    ]
    for name, digest in wanted.items():
        path = TOP / name
        if not path.is_file():
            found.append(f"{name} is missing")
            continue
        with open(path, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                found.append(f"{name} is damaged")
    return found


def unsuited():
    """Why this archive is not for this machine or this Python (str), or ""."""
    sys.path.insert(0, str(COURSE))
    from helpers.machine import platform_name

    about = json.loads((TOP / "bundle.json").read_text(encoding="utf-8"))
    if platform_name() not in about["platforms"]:
        return f"this machine is {platform_name()}, and the archive is for {', '.join(about['platforms'])}"
    lowest = [tuple(map(int, text.split("."))) for text in about["python"]]
    if not any(
        version[:2] == sys.version_info[:2] and version <= sys.version_info[:3]
        for version in lowest
    ):
        here = ".".join(map(str, sys.version_info[:3]))
        return f"this is Python {here}, and the archive is for {' or '.join(about['python'])} and what follows in the same series"
    return ""


def install():
    """Make course/.venv and the model cache. Raises subprocess.CalledProcessError when a step fails."""
    venv.create(COURSE / ".venv", clear=True, with_pip=False)
    python = COURSE / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # pip runs out of its own wheel; what is set for it on this machine, an index for example, does not count here.
    # Compiling all packages would take longer than all else; Python compiles what is imported when it first is.
    pip = [
        str(python),
        str(next(WHEELS.glob("pip-*.whl")) / "pip"),
        "install",
        "--quiet",
        "--no-compile",
    ]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") and name != "PYTHONPATH"
    }
    environment.update(
        PIP_CONFIG_FILE=os.devnull,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=WHEELS.as_uri(),
        PYTHONWARNINGS="ignore",
        HF_HUB_OFFLINE="1",
    )
    steps = {
        "packages": [*pip, "-r", "requirements.txt"],
        "the course's helpers": [*pip, "--no-deps", "--no-build-isolation", "-e", "."],
        "the default model": [str(python), "-m", "course", "model"],
    }
    for what, command in steps.items():
        print(f"{what} ...", flush=True)
        subprocess.run(command, check=True, cwd=COURSE, env=environment)
    (COURSE / ".venv" / ".ready").touch()  # "make" takes the set-up as done
    return subprocess.run(
        [str(python), "-m", "course", "check"], check=False, cwd=COURSE, env=environment
    ).returncode


def main():
    """Returns the exit code: 1 when something is missing, damaged, unsuited or fails."""
    if sys.version_info < (3, 11):  # noqa: UP036 (it runs before there is an environment)
        print(
            f"Python 3.11 or newer is needed, this is {sys.version_info[0]}.{sys.version_info[1]}.",
            file=sys.stderr,
        )
        return 1
    start = time.monotonic()
    print("comparing the files with SHA256SUMS ...", flush=True)
    found = problems()
    if found:
        shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        print(
            f"Nothing was installed: {shown}. Copy and unpack the archive again.", file=sys.stderr
        )
        return 1
    reason = unsuited()
    if reason:
        print(f"Nothing was installed: {reason}.", file=sys.stderr)
        return 1
    if shutil.disk_usage(TOP).free < 5e9:
        print("Nothing was installed: 5 GB of free disk are needed.", file=sys.stderr)
        return 1
    try:
        code = install()
    except subprocess.CalledProcessError as error:
        print(
            f"A step failed, its reason stands above: {' '.join(map(str, error.cmd[1:]))}. Run install.py again.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:  # the disk is full, or the environment in use (JupyterLab is open)
        print(
            f"{error.strerror}: {error.filename}. Close what uses it, or make room, and run install.py again.",
            file=sys.stderr,
        )
        return 1
    print(f"\ninstalled in {time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
