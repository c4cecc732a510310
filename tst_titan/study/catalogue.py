"""What a study may name: models with their published values, sources of text, tokenizers, task groups.

Shapes and learning rates of 270M to 10B-A1B: Peng, Gigant, Quesnelle, arXiv 2605.06546 (the MoE's shape is that of
the authors' public training fork). The small ladder is this project's own, for laptops: totals with both
embeddings at a vocabulary of 4096. A model's vocabulary is always its tokenizer's.
"""

from dataclasses import dataclass
from typing import Any

COMPARISONS = ("equal_flops", "equal_loss", "equal_data", "published")

OFFLINE_TASKS = ("heldout_bits_per_byte", "heldout_cloze")
PAPER_TASKS = ("hellaswag", "arc_easy", "arc_challenge", "mmlu", "boolq", "openbookqa", "piqa", "winogrande")
TASK_GROUPS = {"offline": OFFLINE_TASKS, "paper": PAPER_TASKS}
# Names that a slip of the pen is compared with; any other task of lm-eval may be named too.
KNOWN_TASKS = (
    *TASK_GROUPS,
    *OFFLINE_TASKS,
    *PAPER_TASKS,
    *(
        "lambada_openai",
        "lambada_standard",
        "wikitext",
        "sciq",
        "copa",
        "race",
        "gsm8k",
        "triviaqa",
        "nq_open",
    ),
    *("commonsense_qa", "social_iqa", "truthfulqa_mc2", "logiqa", "mmlu_pro", "squadv2", "drop", "headqa_en"),
)


def _dense(dim: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, rate: float) -> dict[str, Any]:
    shape = {
        "architecture": "llama3",
        "dim": dim,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "ffn_dim": ffn,
    }
    return {"shape": shape, "learning_rate": rate}


def _moe(
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    experts: tuple[int, int, int],
    rate: float,
) -> dict[str, Any]:
    num_experts, top_k, expert_ffn = experts
    shape = {
        "architecture": "qwen3_moe",
        "dim": dim,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "moe": {"num_experts": num_experts, "top_k": top_k, "expert_ffn_dim": expert_ffn},
        "rope_theta": 1000000.0,
        "norm_eps": 1e-6,
    }
    return {"shape": shape, "learning_rate": rate}


MODELS: dict[str, dict[str, Any]] = {
    "0.5M": _dense(48, 4, 3, 1, 16, 128, 5e-3),
    "1M": _dense(96, 4, 3, 1, 32, 256, 4e-3),
    "2M": _dense(128, 4, 4, 2, 32, 384, 3e-3),
    "4M": _dense(192, 6, 6, 2, 32, 512, 3e-3),
    "8M": _dense(288, 6, 9, 3, 32, 768, 2e-3),
    "15M": _dense(384, 7, 6, 2, 64, 1152, 2e-3),
    "30M": _dense(512, 9, 8, 4, 64, 1408, 2e-3),
    "3M-A2M": _moe(128, 4, 4, 2, 32, (8, 2, 128), 3e-3),
    "270M": _dense(576, 30, 9, 3, 64, 1536, 2e-3),
    "600M": _dense(960, 32, 15, 5, 64, 2560, 1e-3),
    "3B": _dense(2048, 36, 16, 4, 128, 11008, 2e-4),
    "10B-A1B": _moe(1536, 32, 24, 4, 128, (128, 8, 512), 3e-4),
}

SOURCES: dict[str, dict[str, str]] = {
    "python-stdlib": {"kind": "python-stdlib"},
    "dclm": {"kind": "hub", "path": "mlfoundations/dclm-baseline-1.0"},
    "fineweb-edu": {"kind": "hub", "path": "HuggingFaceFW/fineweb-edu"},
}


@dataclass(frozen=True, kw_only=True)
class KnownTokenizer:
    """A published tokenizer: its repository, its number of ids, and the rows that its models' embeddings have."""

    name: str
    vocab_size: int
    model_vocab_size: int


TOKENIZERS = {
    "llama3": KnownTokenizer(name="NousResearch/Meta-Llama-3-8B", vocab_size=128256, model_vocab_size=128256),
    # Qwen3's models keep unused rows beyond the tokenizer's last id.
    "qwen3": KnownTokenizer(name="Qwen/Qwen3-0.6B", vocab_size=151669, model_vocab_size=151936),
}
