"""Looks at one thing each: driver, packages, memory, disk. Nothing here imports torch; what needs it is tried apart."""

from finetune.probes import gpu, hub, machine, packages, trials
from finetune.probes.check import Check, State

__all__ = ["Check", "State", "gpu", "hub", "machine", "packages", "trials"]
