"""The machine's memory: how much there is, and how much this process takes."""

import os
import sys
from pathlib import Path

import psutil


def peak_mb():
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def now_mb():
    """Memory that this process holds now, in MB: of the GPU where there is one, else resident."""
    import torch  # where needed only: the runner starts, and refuses, without the second that takes

    return (
        torch.cuda.memory_allocated()
        if torch.cuda.is_available()
        else psutil.Process(os.getpid()).memory_info().rss
    ) / 1e6


def training_peak_mb():
    """Largest memory so far, in MB: of the GPU where there is one (`torch.cuda.max_memory_allocated`), else resident."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else peak_mb()


def readable(size):
    """`size` in bytes as text in GB, or in MB when it is small (powers of ten)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def main_memory():
    """(total, available) main memory in bytes; no more than Linux allows the control group (container, batch job) we are in."""
    memory = psutil.virtual_memory()
    limits, groups = [memory.total], Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, kind, group = line.split(":", 2)
        if kind in ("", "memory"):  # version 2 and 1 of control groups
            top, name = (
                ("/sys/fs/cgroup", "memory.max")
                if not kind
                else ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            )
            own = Path(top + group)
            files = [folder / name for folder in (own, *own.parents) if (folder / name).is_file()]
            limits += [
                int(text) for text in (file.read_text().strip() for file in files) if text.isdigit()
            ]
    return min(limits), min(memory.available, *limits)
