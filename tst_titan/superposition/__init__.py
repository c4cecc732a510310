"""Token superposition in pure torch: bags of tokens in, bags of tokens out.

Source of the method: Peng, Gigant, Quesnelle, "Efficient Pre-Training with Token Superposition", arXiv 2605.06546.
"""

from tst_titan.superposition.bags import (
    fold_bags,
    input_tokens_per_position,
    next_bag_labels,
    superpose_window,
    window_length,
)
from tst_titan.superposition.embedding import BagEmbedding, bag_embedding
from tst_titan.superposition.loss import multi_hot_cross_entropy
from tst_titan.superposition.weighting import BAG_WEIGHTINGS, bag_weights

__all__ = [
    "BAG_WEIGHTINGS",
    "BagEmbedding",
    "bag_embedding",
    "bag_weights",
    "fold_bags",
    "input_tokens_per_position",
    "multi_hot_cross_entropy",
    "next_bag_labels",
    "superpose_window",
    "window_length",
]
