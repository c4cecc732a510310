"""Token superposition in pure PyTorch: bags in, bags out. Imports nothing else of this project, nor torchtitan.

    window_BT -> superpose_window -> inputs_BLS -> bag_embedding -> (any decoder) -> logits_BLV
                                  -> labels_BLS -----------------> multi_hot_cross_entropy

Method: Peng, Gigant, Quesnelle, "Efficient Pre-Training with Token Superposition", arXiv 2605.06546.

A name's module is imported when the name is first asked for: whoever counts tokens needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tst_titan.superposition.bags import fold_bags, next_bag_labels, superpose_window
    from tst_titan.superposition.embedding import bag_embedding
    from tst_titan.superposition.loss import SUM_OF_PROBABILITIES, multi_hot_cross_entropy
    from tst_titan.superposition.settings import (
        BAG_WEIGHTINGS,
        Superpose,
        tokens_per_position,
        window_length,
    )

__all__ = [
    "BAG_WEIGHTINGS",
    "SUM_OF_PROBABILITIES",
    "Superpose",
    "bag_embedding",
    "fold_bags",
    "multi_hot_cross_entropy",
    "next_bag_labels",
    "superpose_window",
    "tokens_per_position",
    "window_length",
]

_MODULES = ("settings", "bags", "embedding", "loss", "weights")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{part}" for part in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
