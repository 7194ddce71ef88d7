"""Memory: what a model takes, and the peak of this process."""

import resource
import sys

import torch


def peak_mb():
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def relative_error(weight, approximation):
    """Root-mean-square difference of two tensors over the root-mean-square of `weight`; 0 means equal."""
    weight, approximation = weight.float(), approximation.float()
    return float(torch.linalg.norm(weight - approximation) / torch.linalg.norm(weight))
