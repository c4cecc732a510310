"""Token superposition in pure PyTorch: bags in, bags out. Imports nothing else of this project, nor torchtitan.

    window_BT -> superpose_window -> inputs_BLS -> BagEmbedding -> (any decoder) -> logits_BLV
                                  -> labels_BLS ----------------> multi_hot_cross_entropy

Method: Peng, Gigant, Quesnelle, "Efficient Pre-Training with Token Superposition", arXiv 2605.06546.
"""

from tst_titan.superposition.bags import (
    Superpose,
    fold_bags,
    next_bag_labels,
    superpose_window,
    window_length,
)
from tst_titan.superposition.embedding import BagEmbedding, bag_embedding
from tst_titan.superposition.loss import SUM_OF_PROBABILITIES, multi_hot_cross_entropy
from tst_titan.superposition.weights import BAG_WEIGHTINGS, bag_weights

__all__ = [
    "BAG_WEIGHTINGS",
    "SUM_OF_PROBABILITIES",
    "BagEmbedding",
    "Superpose",
    "bag_embedding",
    "bag_weights",
    "fold_bags",
    "multi_hot_cross_entropy",
    "next_bag_labels",
    "superpose_window",
    "window_length",
]
