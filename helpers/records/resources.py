"""The machine's memory: how much there is, and how much this process takes."""

import sys
from pathlib import Path

import psutil

# Where Linux says in which control groups (container, batch job) a process is, and their limits.
GROUPS = Path("/proc/self/cgroup")
LIMITS = Path("/sys/fs/cgroup")


def peak_mb():
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def now_mb():
    """Memory that this process holds now, in MB: of the GPU where there is one, else resident."""
    import torch  # only here: the runner starts, and refuses, without the second that it takes

    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e6
    return psutil.Process().memory_info().rss / 1e6


def training_peak_mb():
    """Largest memory so far, in MB: torch's on the GPU where there is one, else resident."""
    import torch  # only here: see now_mb

    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else peak_mb()


def readable(size):
    """`size` in bytes as text in GB, or in MB when it is small (powers of ten)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def main_memory():
    """(total, available) main memory in bytes, no more than our control groups are allowed."""
    memory = psutil.virtual_memory()
    allowed = _group_limits()
    return min([memory.total, *allowed]), min([memory.available, *allowed])


def _group_limits():
    """Bytes (list of int) that our control groups on Linux, and those above them, are allowed."""
    limits = []
    for line in GROUPS.read_text().splitlines() if GROUPS.is_file() else []:
        _, kind, group = line.split(":", 2)
        if kind == "":  # version 2 of control groups
            top, name = LIMITS, "memory.max"
        elif kind == "memory":  # version 1
            top, name = LIMITS / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = top / group.lstrip("/")
        for folder in (own, *own.parents):
            text = (folder / name).read_text().strip() if (folder / name).is_file() else ""
            if text.isdigit():  # "max" is no limit
                limits.append(int(text))
    return limits
