"""OOD metrics from scores, without torch: higher score = more in-distribution; see `datakit.train.metrics`.

The numbers are made one floor below, because the training loops report in them and may not import the checks.
"""

from __future__ import annotations

from datakit.train.metrics import (
    Interval,
    OodMetrics,
    auroc,
    bootstrap_auroc,
    macro_auroc,
    ood_metrics,
    oscr,
)

__all__ = ["Interval", "OodMetrics", "auroc", "bootstrap_auroc", "macro_auroc", "ood_metrics", "oscr"]
