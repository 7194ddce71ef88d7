"""Set the course up from this folder alone, without network: python install.py

Needs Python 3.11 or newer and nothing else. First everything is compared with SHA256SUMS; only then
is course/.venv made, the packages are installed into it, and the default model is put into your
cache folder.
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
ROOM = 5e9  # bytes on the disk: the packages unpacked, the model and its conversion, a run


class NotInstalled(RuntimeError):
    """Nothing was installed; the message says why and what to do."""


def problems():
    """What in this folder is missing or not as it was packed (list of str)."""
    try:
        lines = (TOP / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        wanted = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        number = about_archive()["files"]
    except (OSError, ValueError, KeyError):
        return ["SHA256SUMS or bundle.json is missing or damaged"]
    found = []
    if len(wanted) != number:
        found.append(f"SHA256SUMS names {len(wanted)} of {number} files")
    for path in WHEELS.glob("*"):
        if f"wheels/{path.name}" not in wanted:
            found.append(f"wheels/{path.name} was added")
    for name, digest in wanted.items():
        if not (TOP / name).is_file():
            found.append(f"{name} is missing")
        elif sha256(TOP / name) != digest:
            found.append(f"{name} is damaged")
    return found


def sha256(path):
    """SHA-256 of a file (Path), as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def about_archive():
    """What bundle.json says, as a dict."""
    return json.loads((TOP / "bundle.json").read_text(encoding="utf-8"))


def unsuited():
    """Why this archive is not for this machine or this Python (str), or ""."""
    sys.path.insert(0, str(COURSE))
    from helpers.machine import platform_name  # here, once it is known to be whole

    about = about_archive()
    if platform_name() not in about["platforms"]:
        platforms = ", ".join(about["platforms"])
        return f"this machine is {platform_name()}, and the archive is for {platforms}"
    here = sys.version_info[:3]
    for text in about["python"]:
        lowest = tuple(map(int, text.split(".")))
        if lowest[:2] == here[:2] and lowest <= here:
            return ""
    versions = " or ".join(about["python"])
    return (
        f"this is Python {'.'.join(map(str, here))}, and the archive is for {versions} and what "
        "follows in the same series"
    )


def require_all():
    """Raise NotInstalled unless this folder is whole and suits this machine, and there is room."""
    print("comparing the files with SHA256SUMS ...", flush=True)
    found = problems()
    if found:
        shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise NotInstalled(f"{shown}. Copy and unpack the archive again.")
    reason = unsuited()
    if reason:
        raise NotInstalled(f"{reason}.")
    if shutil.disk_usage(TOP).free < ROOM:
        raise NotInstalled(f"{ROOM / 1e9:.0f} GB of free disk are needed.")


def install():
    """Make course/.venv and the model cache, then check the machine; returns the check's exit code.

    Raises subprocess.CalledProcessError when a step fails.
    """
    venv.create(COURSE / ".venv", clear=True, with_pip=False)
    python = str(COURSE / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    # pip runs out of its own wheel. Compiling all packages would take longer than all else; Python
    # compiles what is imported when it first is.
    pip = [python, str(next(WHEELS.glob("pip-*.whl")) / "pip")]
    pip += ["install", "--quiet", "--no-compile"]
    steps = {
        "packages": [*pip, "-r", "requirements.txt"],
        "the course itself": [*pip, "--no-deps", "--no-build-isolation", "-e", "."],
        "the default model": [python, "-m", "course", "model"],
    }
    for what, command in steps.items():
        print(f"{what} ...", flush=True)
        subprocess.run(command, check=True, cwd=COURSE, env=environment())
    (COURSE / ".venv" / ".ready").touch()  # "make" takes the set-up as done
    check = [python, "-m", "course", "check"]
    return subprocess.run(check, check=False, cwd=COURSE, env=environment()).returncode


def environment():
    """The environment variables of all steps, as {name: value}.

    What is set for pip on this machine, an index for example, does not count here.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") and name != "PYTHONPATH"
    }
    return {
        **kept,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": WHEELS.as_uri(),
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
    }


def main():
    """Returns the exit code: 1 when something is missing, damaged, unsuited or fails."""
    if sys.version_info < (3, 11):  # noqa: UP036 (it runs before there is an environment)
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        print(f"Python 3.11 or newer is needed, this is {version}.", file=sys.stderr)
        return 1
    start = time.monotonic()
    try:
        require_all()
        code = install()
    except NotInstalled as error:
        print(f"Nothing was installed: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(
            f"A step failed, its reason stands above: {' '.join(map(str, error.cmd[1:]))}. Run "
            "install.py again.",
            file=sys.stderr,
        )
        return 1
    except OSError as error:  # the disk is full, or the environment in use (JupyterLab is open)
        print(
            f"{error.strerror}: {error.filename}. Close what uses it, or make room, and run "
            "install.py again.",
            file=sys.stderr,
        )
        return 1
    print(f"\ninstalled in {time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
