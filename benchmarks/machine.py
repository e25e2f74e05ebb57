"""On what machine was this measured? The reports of runs ask that, too."""

from sparsification.report.machine import cpu_name

__all__ = ["cpu_name"]
