"""03 on several processes: the notebook as a script, started by `accelerate launch`."""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import yaml

from helpers.records import folders

# How the last line of a traceback begins, in what a process printed.
CAUSE = re.compile(
    r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*)$", re.MULTILINE
)


class LaunchError(ValueError):
    """The processes asked for cannot be started; one sentence."""


def processes(asked, config):
    """How many processes `accelerate launch` would start, as int.

    asked: the number on the command line or None; config: path of an Accelerate configuration file,
    or "". Raises LaunchError for a number below 1 or above the GPUs of this machine, and for a file
    that is missing, is no Accelerate configuration, or wants mpirun.
    """
    if asked is not None and asked < 1:
        raise LaunchError(f"--processes was {asked}, but it should be 1 or more.")
    if config:
        settings = _configuration(config)
        return asked or settings.get("num_processes") or 1
    if asked is None or asked == 1:
        return 1
    import torch  # here, for a run on one process does without the second it takes

    gpus = torch.cuda.device_count()
    if gpus and asked > gpus:
        raise LaunchError(
            f"--processes was {asked}, but this machine has {gpus} GPUs, and each process needs "
            "one."
        )
    return asked


def _configuration(path):
    """The settings (dict) in an Accelerate configuration file; raises LaunchError."""
    option = f"--accelerate-config {path}"
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"{option}: there is no such file.") from None
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise LaunchError(f"{option} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict) or "distributed_type" not in settings:
        raise LaunchError(f"{option} is not a file that `accelerate config` writes.")
    if settings["distributed_type"] == "MULTI_CPU" and "mpirun_config" not in settings:
        # Accelerate would start a single process and say nothing.
        raise LaunchError(f"{option}: on CPUs leave the file out and give --processes alone.")
    return settings


def export(notebook, parameters, script):
    """Write `notebook` (path) with `parameters` injected as the Python file `script` (path)."""
    from nbconvert import PythonExporter  # here, for these take seconds, and few runs need them
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    injected = parameterize_notebook(load_notebook_node(str(notebook)), parameters)
    source, _ = PythonExporter().from_notebook_node(injected)
    source = f"from course import launch\n\nlaunch.end_with_runner()\n\n{source}"
    Path(script).write_text(source, encoding="utf-8")


def end_with_runner():
    """Let this process end with the runner that started it, however that ends, as a kernel does.

    Returns at once.
    """
    if os.environ.get("COURSE_RUNNER") == "waits":
        threading.Thread(target=_end_with_standard_input, daemon=True).start()


def _end_with_standard_input():
    """End this process when the pipe from the runner closes, which it does with the runner."""
    os.read(0, 1)
    os._exit(1)


def run(script, log, number, config=""):
    """Run `script` on `number` processes; what they print goes to the terminal and to `log`.

    config: path of an Accelerate configuration file; without one the processes share this machine's
    GPUs or CPU. Returns None when all went well, else the sentence of the first error.
    """
    environment = {**os.environ, "MPLBACKEND": "agg", "COURSE_RUNNER": "waits"}
    with (
        open(log, "wb") as record,
        subprocess.Popen(
            [*_command(number, config), str(script)],
            cwd=folders.NOTEBOOKS,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        for chunk in iter(partial(child.stdout.read1, 8192), b""):
            record.write(chunk)
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
    if not child.returncode:
        return None
    printed = Path(log).read_text(encoding="utf-8", errors="replace")
    if "SIGKILL" in printed:
        return (
            "a process was killed, most often for want of memory: lower batch_size or max_length."
        )
    cause = CAUSE.search(printed)
    return cause[1] if cause else f"the processes ended with exit code {child.returncode}."


def _command(number, config):
    """The words (list of str) that start a script on `number` processes; config: as for `run`."""
    import torch  # as in `processes`

    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(number)]
    if config:
        command += ["--config_file", str(Path(config).resolve())]
    else:
        command += ["--num_machines", "1", "--main_process_port", "0"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        # Also on a CPU: --cpu would leave starting the processes to mpirun.
        command += ["--multi_gpu"] if number > 1 else []
    if not torch.cuda.is_available():
        threads = max(1, (os.cpu_count() or 1) // number)
        command += ["--num_cpu_threads_per_process", str(threads)]
    return command
