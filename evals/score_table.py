"""All scores of a run as one array: what statistics, verdicts and reports read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoreTable:
    """Scores by variant, case, repeat and scorer. Memory: 8 bytes a score, 10 MB for 100,000 samples of 12 scorers."""

    variants: tuple[str, ...]
    scorers: tuple[str, ...]
    """Names; the last one is `headline`."""
    case_ids: tuple[str, ...]
    families: tuple[str, ...]
    """Per case."""
    stages: tuple[str, ...]
    """Per case."""
    relations: tuple[str | None, ...]
    """Per case: the metamorphic relation it was made by; None for a case that counts in the leaderboard."""
    values: NDArray[np.float64]
    """Shape (variants, cases, repeats, scorers); NaN where a scorer had nothing to say or no answer came."""
    errored: NDArray[np.bool_]
    """Shape (variants, cases, repeats): no answer came."""

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Shape (variants, cases, repeats): an answer came and was scored. Neither this nor errored: not asked."""
        return np.asarray(~np.isnan(self.values).all(axis=-1), dtype=bool)

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Per case: whether it counts in the leaderboard."""
        return np.array([relation is None for relation in self.relations], dtype=bool)

    def per_case(self, variant: str, scorer: str) -> NDArray[np.float64]:
        """One score per case, the mean over its repeats; NaN where no repeat was scored. Raises ValueError when
        variant or scorer is not in the table."""
        scores = self.values[self.variants.index(variant), :, :, self.scorers.index(scorer)]
        known = ~np.isnan(scores)
        counts = known.sum(axis=1)
        sums = np.where(known, scores, 0.0).sum(axis=1)
        means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        return means
