"""03 on several processes: the notebook as a script, started by `accelerate launch`."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import yaml

CAUSE = re.compile(
    r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*)$", re.MULTILINE
)


class LaunchError(ValueError):
    """The processes asked for cannot be started; one sentence."""


def processes(asked, config):
    """How many processes `accelerate launch` would start, as int.

    asked: the number on the command line or None; config: path of an Accelerate configuration file, or "".
    Raises LaunchError for a number below 1 or above the GPUs of this machine, and for a file that is missing, is no
    Accelerate configuration, or wants mpirun.
    """
    import torch

    if asked is not None and asked < 1:
        raise LaunchError(f"--processes was {asked}, but it should be 1 or more.")
    if not config:
        gpus = torch.cuda.device_count()
        if gpus and asked and asked > gpus:
            raise LaunchError(
                f"--processes was {asked}, but this machine has {gpus} GPUs, and each process needs one."
            )
        return asked or 1
    try:
        settings = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"--accelerate-config {config}: there is no such file.") from None
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise LaunchError(
            f"--accelerate-config {config} cannot be read: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(settings, dict) or "distributed_type" not in settings:
        raise LaunchError(
            f"--accelerate-config {config} is not a file that `accelerate config` writes."
        )
    if settings["distributed_type"] == "MULTI_CPU" and "mpirun_config" not in settings:
        # Accelerate would start a single process and say nothing.
        raise LaunchError(
            f"--accelerate-config {config}: on CPUs leave the file out and give --processes alone."
        )
    return asked or settings.get("num_processes") or 1


def export(notebook, parameters, script):
    """Write `notebook` (path) with `parameters` injected as the Python file `script` (path)."""
    from nbconvert import PythonExporter
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    injected = parameterize_notebook(load_notebook_node(str(notebook)), parameters)
    source, _ = PythonExporter().from_notebook_node(injected)
    source = f"from helpers import launch\n\nlaunch.end_with_runner()\n\n{source}"
    Path(script).write_text(source, encoding="utf-8")


def end_with_runner():
    """Let this process end when the runner that started it does, however that ends, as a kernel does; returns at once."""
    if os.environ.get("COURSE_RUNNER") == "waits":  # its end of the pipe closes with it
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()


def run(script, log, number, config=""):
    """Run `script` on `number` processes, copying what they print to this terminal and to the file `log`.

    config: path of an Accelerate configuration file; without one the processes share this machine's GPUs or CPU.
    Returns None when all went well, else the sentence of the first error.
    """
    import torch

    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(number)]
    environment = {**os.environ, "MPLBACKEND": "agg", "COURSE_RUNNER": "waits"}
    if config:
        command += ["--config_file", str(Path(config).resolve())]
    else:
        command += [
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            "0",
        ]
        # Also on a CPU: --cpu would leave starting the processes to mpirun.
        command += ["--multi_gpu"] if number > 1 else []
    if not torch.cuda.is_available():
        command += ["--num_cpu_threads_per_process", str(max(1, (os.cpu_count() or 1) // number))]
    with (
        open(log, "wb") as record,
        subprocess.Popen(
            [*command, str(script)],
            cwd=Path(__file__).parent.parent / "notebooks",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        for chunk in iter(lambda: child.stdout.read1(8192), b""):
            record.write(chunk)
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
    if not child.returncode:
        return None
    said = Path(log).read_text(encoding="utf-8", errors="replace")
    if "SIGKILL" in said:
        return (
            "a process was killed, most often for want of memory: lower batch_size or max_length."
        )
    found = CAUSE.search(said)
    return found[1] if found else f"the processes ended with exit code {child.returncode}."
