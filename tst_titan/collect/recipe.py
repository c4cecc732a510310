"""The recipe of a run as columns of the table of runs: every field that a study can set, so that nothing that differs
is hidden."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tst_titan.files import digest_json
from tst_titan.plan import Recipe, Run
from tst_titan.plan.costs import count_parameters
from tst_titan.plan.settings import CorpusSettings

# After the other columns of a table of runs, in this order. The learning rate and bags have columns among the first.
RECIPE_COLUMNS = {
    "superposition_steps": "Int64",
    "seq_len": "Int64",
    "sequences_per_step": "Int64",
    "warmup_steps": "Int64",
    "decay_fraction": "Float64",
    "decay_to": "Float64",
    "beta1": "Float64",
    "beta2": "Float64",
    "adam_eps": "Float64",
    "weight_decay": "Float64",
    "max_grad_norm": "Float64",
    "precision": "string",
    "attention": "string",
    "block_tokens": "Int64",
    "architecture": "string",
    "dim": "Int64",
    "num_layers": "Int64",
    "num_heads": "Int64",
    "num_kv_heads": "Int64",
    "head_dim": "Int64",
    "ffn_dim": "Int64",
    "vocab_size": "Int64",
    "tied_embeddings": "boolean",
    "rope_theta": "Float64",
    "norm_eps": "Float64",
    "num_experts": "Int64",
    "top_k": "Int64",
    "expert_ffn_dim": "Int64",
    "load_balance_coeff": "Float64",
    # Active parameters: of the blocks (no embedding, no head), and of the head alone.
    "params": "Int64",
    "head_params": "Int64",
    # What is read, and in what: losses in nats a token compare within one of each.
    "text": "string",
    "tokenizer": "string",
    "bytes_per_token": "Float64",
    "held_out_bytes_per_token": "Float64",
    # The fields that the run's arm sets itself, separated by spaces.
    "own_fields": "string",
}


def recipe_columns(run: Run, recipe: Recipe) -> dict[str, Any]:
    """The columns of one run, but for what its corpus has (`corpus_columns`)."""
    shape = asdict(recipe.model)
    experts = shape.pop("moe") or {}
    counts = count_parameters(recipe.model)
    return {
        "superposition_steps": run.superposition_steps,
        **run.training,
        **{name: value for name, value in shape.items() if name != "name"},
        **experts,
        "params": counts.active_without_embeddings,
        "head_params": recipe.model.vocab_size * recipe.model.dim,
        "text": _text(recipe.corpus),
        "tokenizer": _tokenizer(recipe.corpus),
        "own_fields": " ".join(run.own_fields),
    }


def corpus_columns(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes a token of a corpus, of its training and of its held-out text; missing where its manifest does not say."""
    held_out = manifest.get("validation") or {}
    num_bytes, num_tokens = held_out.get("num_bytes"), held_out.get("num_tokens")
    return {
        "bytes_per_token": manifest.get("bytes_per_token"),
        "held_out_bytes_per_token": num_bytes / num_tokens if num_bytes and num_tokens else None,
    }


def _text(corpus: CorpusSettings) -> str:
    """What is read, whatever cuts it into tokens: ``dclm+fineweb-edu-1a2b3c4d``."""
    names = "+".join(source.name for source in corpus.sources)
    return f"{names}-{digest_json([asdict(source) for source in corpus.sources])}"


def _tokenizer(corpus: CorpusSettings) -> str:
    tokenizer = corpus.tokenizer
    return tokenizer.name if tokenizer.kind == "hub" else f"{tokenizer.kind}-{tokenizer.vocab_size}"
