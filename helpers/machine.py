"""Is this machine ready for the course?

One line for each thing the course needs: OK, warning (it will do, but) or FAIL, with the next step.
This always reports, also where nothing is installed: what is not of the standard library is
imported where its absence can be said.
"""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

try:
    from helpers.model import default_model

    MISSING = ""
except (ImportError, OSError) as error:  # the latter from a torch that is there and does not load
    default_model, MISSING = None, str(error)

REPOSITORY = Path(__file__).resolve().parent.parent
if (REPOSITORY.parent / "install.py").is_file():  # unpacked from the classroom's archive
    SETUP = FETCH = 'run "python install.py" again, in the folder above'
else:
    SETUP = 'run "make course" or, without make, "pip install -r requirements.txt"'
    FETCH = 'run "python -m course model" (93 MB, needs the network)'
GB = 1e9
# GB written there: a run of the defaults, the model and its conversion.
DISK = {"run directory": 2.5, "model cache": 1.5}
MEMORY = 4.5  # GB that 03 takes at its peak on the defaults, and a little more
LEAST = 2.0  # GB that the libraries and the default model take before anything is trained
FOLDERS = {
    "run directory": "name another folder in the environment variable COURSE_RUN_DIR",
    "model cache": "name another folder in the environment variable XDG_CACHE_HOME",
}
OK, WARNING, FAIL = "OK", "warning", "FAIL"


class NotReady(RuntimeError):
    """Something the course cannot do without is missing; the message says what, and what to do."""


def platform_name():
    """This machine in one word (str), e.g. `linux-x86_64`, `macos-arm64`, `windows-x86_64`."""
    system = platform.system().lower()
    if system == "darwin":
        system = "macos"
    processor = platform.machine().lower()
    if processor == "amd64":  # as Windows calls it
        processor = "x86_64"
    return f"{system}-{processor}"


def requirements(name):
    """The requirements in a file of the repository (list of str), without comments."""
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    texts = [line.split("#")[0].strip() for line in lines]
    return [text for text in texts if text]


def installed(name):
    """Version of an installed package (str), or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python(version=None):
    """At least 3.11; version: as in sys.version_info."""
    version = version or sys.version_info[:3]
    text = ".".join(map(str, version))
    if version < (3, 11):
        return FAIL, text, "install Python 3.11 or newer, and make a new environment with it"
    return OK, text, ""


def check_packages(direct=None, pins=None):
    """What the course imports must be there, in a version that requirements.in allows.

    Other versions than the pins are a warning. direct, pins: requirements (lists of str), those of
    the repository's files by default.
    """
    direct = requirements("requirements.in") if direct is None else direct
    pins = requirements("requirements.txt") if pins is None else pins
    try:
        from packaging.requirements import Requirement  # here, because it may be missing
    except ImportError:
        return FAIL, "packaging is missing, and so perhaps are others", SETUP
    wrong = []
    for requirement in map(Requirement, direct):
        version = installed(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, needed is {requirement.specifier}")
    if wrong:
        return FAIL, first_few(wrong), SETUP
    other = other_than_pinned(pins)
    if other:
        text = f"{len(other)} of {len(pins)} are not as pinned: {first_few(other)}"
        return WARNING, text, f"for the course's own figures {SETUP}"
    return OK, f"all {len(pins)} as pinned", ""


def other_than_pinned(pins):
    """What is not installed in the version that `pins` (list of str) name (list of str)."""
    other = []
    for name, wanted in (pin.split("==") for pin in pins):
        version = installed(name)
        if version is None:
            other.append(f"{name} is missing")
        elif version.split("+")[0] != wanted:  # torch's builds have a name behind the +
            other.append(f"{name} {version} instead of {wanted}")
    return other


def first_few(texts, number=4):
    """The first few of a list of str, and how many more there are."""
    more = [f"{len(texts) - number} more"] if len(texts) > number else []
    return "; ".join(texts[:number] + more)


def check_cores(number=None):
    """Two cores; number: of those this process may use."""
    if number is None:
        on_linux = hasattr(os, "sched_getaffinity")
        number = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    if number < 2:
        return (
            WARNING,
            f"{number}",
            "training takes twice as long as the README says: take fewer rows, -p max_rows 300",
        )
    return OK, f"{number}", ""


def check_memory(amounts=None):
    """Room for 03; amounts: (total, free) in bytes."""
    try:
        from helpers.records import resources  # here, because what it imports may be missing
    except ImportError as error:
        return WARNING, f"unknown: {error}", SETUP
    total, free = (amount / GB for amount in amounts or resources.main_memory())
    text = f"{total:.1f} GB, {free:.1f} free"
    if total < LEAST:
        return FAIL, f"{text}; the course takes {LEAST} before it trains", "use a larger machine"
    if total < MEMORY:
        return (
            WARNING,
            f"{text}; 03 takes {MEMORY} on its defaults",
            "use a larger machine, or -p batch_size 2 and -p max_length 256",
        )
    if free < MEMORY:
        return (
            WARNING,
            f"{text}; 03 takes {MEMORY} on its defaults",
            "close other programs before 03, or use -p batch_size 4",
        )
    return OK, text, ""


def check_disk(name, folder, free=None):
    """Room and leave to write.

    name: a key of DISK; folder: Path, may not exist yet, or None when it is not known; free: bytes.
    """
    if folder is None:
        return WARNING, f"unknown: {MISSING}", SETUP
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return FAIL, f"{there} cannot be written to", FOLDERS[name]
    free = (shutil.disk_usage(there).free if free is None else free) / GB
    if free < DISK[name]:
        state = FAIL if free < DISK[name] / 2 else WARNING
        return (
            state,
            f"{free:.1f} GB free at {there}, {DISK[name]} are needed",
            f"free some space, or {FOLDERS[name]}",
        )
    return OK, f"{free:.1f} GB free", ""


def accelerator():
    """(what there is, parameter file, why) as str for this machine's GPU or CPU.

    Raises ImportError without torch.
    """
    import torch  # here, because it may be missing

    from helpers.model import hardware

    dtype, why = hardware.pick_precision()
    precision = str(dtype).removeprefix("torch.")
    if not torch.cuda.is_available():
        return (
            f"CPU only, {precision} ({why})",
            "cpu.yaml",
            "it spells out the defaults, made for a CPU",
        )
    gpu = torch.cuda.get_device_properties(0)
    size = gpu.total_memory / GB
    text = f"{gpu.name}, {size:.0f} GB, {precision} ({why})"
    if size > 38 and dtype == torch.bfloat16:
        return (
            text,
            "llama3-8b-a100.yaml",
            "40 GB or more and bfloat16; llama3.1-8b-a100.yaml for longer documents",
        )
    if size > 15:
        return (
            text,
            "llama3-8b-t4.yaml",
            "16 GB hold Llama 3 8B in 4 bits; its float16 does for every GPU",
        )
    return (
        text,
        "cpu.yaml",
        f"{size:.0f} GB do not hold Llama 3 8B in training; the default model uses the GPU, too",
    )


def check_accelerator():
    """What torch computes on; a GPU that it does not see is a warning."""
    try:
        text, _, _ = accelerator()
    except (ImportError, OSError) as error:
        return FAIL, f"unknown, because torch cannot be imported: {error}", SETUP
    if text.startswith("CPU") and shutil.which("nvidia-smi"):
        return (
            WARNING,
            f"{text}; there is an NVIDIA driver, but this torch does not use it",
            "install torch's CUDA build to use the GPU",
        )
    return OK, text, ""


def check_model(folder=None):
    """The default model in the cache, whole; folder: Path, the cache's by default."""
    if default_model is None:
        return WARNING, f"unknown: {MISSING}", SETUP
    folder = folder or default_model.cache_folder()
    name = default_model.weights.DEFAULT_MODEL
    if not folder.is_dir():
        return WARNING, f"{name} is not in the cache yet", FETCH
    wrong = default_model.damaged_file(folder, default_model.NEEDED)
    if wrong:
        text = f"{name} in {folder} is damaged ({wrong})"
        return WARNING, text, f"01 fetches it again, or {FETCH}"
    return OK, f"{name} is in the cache, whole", ""


def check_kernel(command=None):
    """The kernel `python3` must start this very interpreter, and find this repository's helpers.

    command: the words (list of str) that start it.
    """
    try:  # here, because it may be missing
        from jupyter_client.kernelspec import NoSuchKernel
        from jupyter_client.manager import KernelManager
    except ImportError:
        return FAIL, "jupyter_client is missing", SETUP
    try:
        command = command or KernelManager(kernel_name="python3").format_kernel_cmd()
    except NoSuchKernel:
        return FAIL, "there is no kernel python3", 'run "python -m ipykernel install --sys-prefix"'
    # The folder, not the file: environments of one Python link to the same file.
    if Path(command[0]).parent.resolve() != Path(sys.executable).parent.resolve():
        return (
            FAIL,
            f"python3 starts {command[0]}, not {sys.executable}",
            'run "python -m ipykernel install --sys-prefix"',
        )
    if "google.colab" in sys.modules:  # its set-up cell names the folder in the running kernel
        return OK, "python3 is this interpreter", ""
    code = "import helpers; print(helpers.__path__[0])"
    done = subprocess.run(
        [command[0], "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY / "notebooks",
    )
    if done.returncode or Path(done.stdout.strip()).resolve() != REPOSITORY / "helpers":
        return (
            FAIL,
            "python3 does not find this repository's helpers",
            'run "pip install --no-deps --no-build-isolation -e ."',
        )
    return OK, "python3 is this interpreter", ""


def check_port():
    """The practice Hub listens on a free port of 127.0.0.1."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return OK, "free ports on 127.0.0.1", ""
    except OSError as error:
        return (
            WARNING,
            f"no port of 127.0.0.1 can be used: {error.strerror}",
            "allow it, or use -p push_to none -p load_from local",
        )


def checks():
    """All checks as a list of (name, state, what was found, next step), str each.

    The state is OK, warning or FAIL.
    """
    run_dir = Path(os.environ.get("COURSE_RUN_DIR") or REPOSITORY / "runs" / "default")
    cache = default_model.cache_folder() if default_model else None
    return [
        ("Python", *check_python()),
        ("packages", *check_packages()),
        ("cores", *check_cores()),
        ("memory", *check_memory()),
        ("run directory", *check_disk("run directory", run_dir.expanduser().resolve())),
        ("model cache", *check_disk("model cache", cache)),
        ("accelerator", *check_accelerator()),
        ("model", *check_model()),
        ("kernel", *check_kernel()),
        ("ports", *check_port()),
    ]


def report(results=None):
    """Print a line for each check, and which parameter file suits this machine.

    results: as from `checks`, which is called without it. Raises NotReady when one FAILs.
    """
    results = checks() if results is None else results
    for name, state, text, step in results:
        print(f"{state:<8} {name:<14} {text}" + (f"\n{'':<24}→ {step}" if step else ""))
    try:
        _, file, why = accelerator()
        print(f"\nnotebooks/params/{file} suits this machine: {why}.")
    except (ImportError, OSError):
        pass  # said above
    failed = [f"{name}: {text}: {step}." for name, state, text, step in results if state == FAIL]
    if failed:
        raise NotReady("This machine is not ready. " + " ".join(failed))


def main():
    """Print the report; returns the exit code."""
    try:
        report()
    except NotReady:
        print("\nNot ready: see the lines with FAIL.", file=sys.stderr)
        return 1
    return 0
