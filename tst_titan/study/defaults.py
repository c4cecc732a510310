"""What holds where a definition writes nothing: the published recipe, and ordinary training.

The one place of these values: the schema's texts are made of them, and a test holds docs/studies.md to them.
"""

from typing import Any

# By field of `recipe.Training`. The learning rate has none: it is the model's own.
TRAINING_DEFAULTS: dict[str, Any] = {
    "seq_len": 2048,
    "sequences_per_step": 1024,
    "warmup_steps": 2000,
    "decay_fraction": 0.1,
    "decay_to": 0.0,
    "beta1": 0.9,
    "beta2": 0.95,
    "adam_eps": 1e-8,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "precision": "bfloat16",
    "attention": "causal",
    "block_tokens": 2048,
}
# By field of `definition.ArmFields`: no superposition.
ARM_DEFAULTS: dict[str, Any] = {
    "bag_size": 1,
    "step_ratio": None,
    "superposition_steps": None,
    "bag_weighting": "uniform",
    "superpose": "both",
    "reinit_embeddings": False,
}


def spelled(value: Any) -> str:
    """A value as a study file has it: ``true``, ``1e-8``, ``bfloat16``."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)
