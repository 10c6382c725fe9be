"""Features in coordinates where the pooled within-class covariance is the identity, without torch.

Mahalanobis distances do not change under it, and inverting the covariance, which float32 gets wrong once features
are nearly dependent, is left with the identity. Directions in which classes do not vary at all have no such
distance: they are dropped, and said to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FLAT = 1e-8  # a direction with less than this share of the largest within-class variance is flat
FEW = 2  # degrees of freedom per direction below which the covariance is called noisy

Features = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """An affine map; `freedom` is the number of training images less the number of classes."""

    mean_D: npt.NDArray[np.float64]
    map_DR: npt.NDArray[np.float64]
    freedom: int
    flat: bool = False  # no class varies: nothing was whitened

    @property
    def dim(self) -> int:
        return len(self.mean_D)

    @property
    def rank(self) -> int:
        return int(self.map_DR.shape[1])

    def apply(self, feature_ND: Features) -> npt.NDArray[np.float32]:
        """(N, D) to (N, R) float32."""
        return ((feature_ND.astype(np.float64) - self.mean_D) @ self.map_DR).astype(np.float32)

    def notes(self) -> list[str]:
        if self.flat:
            return [
                "no class has two images whose features differ: Mahalanobis is Euclidean distance to class means"
            ]
        found: list[str] = []
        if self.rank < self.dim:
            found.append(
                f"within-class covariance is degenerate: Mahalanobis distances use {self.rank} of {self.dim} directions"
            )
        if self.freedom < FEW * self.dim:
            found.append(
                f"within-class covariance is noisy: {self.freedom} degrees of freedom for {self.dim} dimensions; "
                "read Mahalanobis figures with care"
            )
        return found


def whitening(feature_ND: Features, labels: npt.NDArray[np.int64]) -> Whitening:
    """Learned from features (N, D) with labels (N,) in 0..K-1.  In float64.

    Where no class varies at all (one image each) the features are only centred, all directions weighing the same.
    """
    x_ND = feature_ND.astype(np.float64)
    counts_K = np.bincount(labels)
    mean_KD = np.stack([np.bincount(labels, column) for column in x_ND.T], axis=1) / counts_K[:, None]
    within_ND = x_ND - mean_KD[labels]
    freedom = len(labels) - len(counts_K)
    variance_D, axes_DD = np.linalg.eigh(within_ND.T @ within_ND / max(1, freedom))
    kept = variance_D > FLAT * variance_D[-1]
    # all variance rounding noise: one image a class, or a collapsed trunk
    if variance_D[-1] <= np.finfo(np.float32).eps * float(np.square(x_ND).mean() + 1e-12):
        return Whitening(mean_D=x_ND.mean(axis=0), map_DR=np.eye(x_ND.shape[1]), freedom=freedom, flat=True)
    return Whitening(
        mean_D=x_ND.mean(axis=0), map_DR=axes_DD[:, kept] / np.sqrt(variance_D[kept]), freedom=freedom
    )
