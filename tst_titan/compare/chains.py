"""Noise between seeds where runs share it: one seed's runs of several budgets are one chain, with a prefix in common.

Estimator. Samples j (a budget, an arm) have values y_sj of the seeds s that ran them, n_j each. The covariance of their
means is the cluster-robust one with a seed as the cluster: sum over s of d_sj d_sk / sqrt(n_j (n_j - 1) n_k (n_k - 1)),
d the deviation from the sample's own mean, over the seeds that both have (Cameron, Gelbach and Miller 2011, section
2.1). Where all samples have the same seeds this is the sample covariance over seeds divided by their number. A contrast
of the means then has Satterthwaite's degrees of freedom of that estimate (Bell and McCaffrey 2002), seeds - 1 in the
balanced case, which scale the draws to a t distribution: normal draws from three seeds would cover far less than they
claim. Where no seed is in two samples, noise is independent with one pooled variance, which has more degrees of
freedom. A sample of one seed has no deviation: it takes that pooled variance, as if its seed were its own.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

# Correlation between one seed's runs that the degrees of freedom are worked out for: they depend on it weakly.
WORKING_CORRELATION = 0.5


def no_noise_known(samples: Sequence[pd.Series]) -> str:
    """Why samples (values by seed) say nothing about the noise between seeds; empty where they do."""
    if any(len(sample) > 1 for sample in samples):
        return ""
    return "one seed: there is no measure of the noise between seeds"


def seed_noise(samples: Sequence[pd.Series], weights: np.ndarray, draws: int) -> np.ndarray:
    """Draws of the errors of the samples' means, shape [draws, samples], the same in every call.

    Args:
        samples: values by seed, at least one with two seeds.
        weights: the contrast of the means whose interval is wanted; it sets the degrees of freedom.
    """
    random = np.random.default_rng(0)
    deviations, alone = _deviations(samples, _pooled(samples))
    degrees = _degrees(samples, weights, alone)
    noise = random.standard_normal((draws, len(deviations))) @ deviations
    if alone.any():
        noise = noise + random.standard_normal((draws, len(samples))) * alone
    return noise / np.sqrt(random.chisquare(degrees, (draws, 1)) / degrees)


def chain_noise(chains: Sequence[Sequence[pd.Series]], draws: int) -> np.ndarray:
    """Draws of the errors of the means of all samples of several chains, shape [draws, samples], the same in every
    call.

    `chains`: for each model its samples (a budget's values by seed), at least one of each with two seeds. One seed's
    runs share noise within a model, not between models. Degrees of freedom: seeds - 1, summed over the models.
    """
    random = np.random.default_rng(0)
    degrees = sum(max(len(sample) for sample in samples) - 1 for samples in chains)
    pooled = _pooled([sample for samples in chains for sample in samples])
    blocks = []
    for samples in chains:
        deviations, alone = _deviations(samples, pooled)
        independent = random.standard_normal((draws, len(samples))) * alone
        blocks.append(random.standard_normal((draws, len(deviations))) @ deviations + independent)
    return np.concatenate(blocks, axis=1) / np.sqrt(random.chisquare(degrees, (draws, 1)) / degrees)


def _pooled(samples: Sequence[pd.Series]) -> float:
    """Standard deviation between the seeds of one sample, from all of them."""
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples)
    return math.sqrt(squares / sum(len(sample) - 1 for sample in samples))


def _deviations(samples: Sequence[pd.Series], pooled: float) -> tuple[np.ndarray, np.ndarray]:
    """Square roots of the covariance: a row a seed; and the errors of each sample that are independent of all
    others."""
    shared = _shares_seeds(samples)
    alone = np.array([pooled / math.sqrt(len(sample)) if len(sample) == 1 or not shared else 0.0 for sample in samples])
    seeds = sorted({seed for sample in samples for seed in sample.index})
    deviations = np.zeros((len(seeds), len(samples)))
    if shared:
        for column, sample in enumerate(samples):
            if len(sample) > 1:
                scale = math.sqrt(len(sample) * (len(sample) - 1))
                rows = [seeds.index(seed) for seed in sample.index]
                deviations[rows, column] = (sample - sample.mean()) / scale
    return deviations, alone


def _shares_seeds(samples: Sequence[pd.Series]) -> bool:
    return max(Counter(seed for sample in samples for seed in sample.index).values()) > 1


def _degrees(samples: Sequence[pd.Series], weights: np.ndarray, alone: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of the contrast's estimated variance, at the working correlation."""
    sizes = np.array([len(sample) for sample in samples])
    pooled = int((sizes - 1).sum())
    if not _shares_seeds(samples):
        return pooled
    # The estimate is a sum of squares of linear forms of the runs: a form a seed.
    runs = [(column, seed) for column, sample in enumerate(samples) for seed in sample.index]
    columns = np.array([column for column, _ in runs])
    seeds = np.array([str(seed) for _, seed in runs])
    same_seed = seeds[:, None] == seeds[None, :]
    covariance = np.where(same_seed, WORKING_CORRELATION, 0.0) + (1 - WORKING_CORRELATION) * np.eye(len(runs))
    center = np.eye(len(runs)) - (columns[:, None] == columns[None, :]) / sizes[columns][:, None]
    scale = np.where(sizes > 1, weights / np.sqrt(sizes * np.maximum(1, sizes - 1)), 0.0)
    forms = np.stack([(scale[columns] * (seeds == seed)) @ center for seed in dict.fromkeys(seeds)])
    moments = forms @ covariance @ forms.T
    robust, squared = float(np.trace(moments)), float((moments**2).sum())
    # Unit variance of the pooled one, whose degrees of freedom are known.
    single = float(((weights * (alone > 0)) ** 2).sum())
    if robust + single == 0:
        return pooled
    return (robust + single) ** 2 / (squared + single**2 / pooled)
