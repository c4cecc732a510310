"""The README.md of an export: what the model is, how it was trained, where its numbers come from."""

from typing import Any

from tst_titan.shown import in_markdown


def model_card(record: dict[str, Any], corpus: dict[str, Any]) -> str:
    """Markdown with the hub's front matter, from an export's record and its corpus's manifest."""
    record, corpus = in_markdown(record), in_markdown(corpus)
    settings = record["settings"]
    code = (
        "\nIts router chooses experts by score plus a bias per expert, which no architecture of transformers holds. "
        "The model code is in this directory (`qwen3_moe_biased.py`); loading it takes `trust_remote_code=True` and "
        "transformers 5 or later.\n"
        if record["needs_own_code"]
        else ""
    )
    remote = ", trust_remote_code=True" if record["needs_own_code"] else ""
    table = "\n".join(f"| {name} | {value} |" for name, value in _facts(record, corpus).items())
    stages = "\n".join(f"- {_stage(stage)}" for stage in settings["stages"])
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- token-superposition-training
- pretrained
---

# {settings["recipe"]["model"]["name"]} ({record["segment"]})

A base model, pretrained by tst-titan and exported from its checkpoint with {record["dtype"]} weights. It was made for
comparing ways to pretrain; it has not been tuned for instructions or safety.
{code}
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("PATH")
    model = AutoModelForCausalLM.from_pretrained("PATH"{remote})

The tokenizer adds no special token: in training, documents were separated by the end-of-text token alone.

## How it was trained

{stages}

| | |
| --- | --- |
{table}

The resolved settings and the provenance record are in `tst_titan.json`.
"""


def _facts(record: dict[str, Any], corpus: dict[str, Any]) -> dict[str, Any]:
    """The rows of the table: what was trained, on what, with which code."""
    done, provenance = record["done"], record["provenance"]
    recipe, model = record["settings"]["recipe"], record["settings"]["recipe"]["model"]
    sources = ", ".join(f"{source['name']} (weight {source['weight']:g})" for source in corpus["sources"])
    return {
        "Segment": f"`{record['segment']}`",
        "Checkpoint": f"`{record['checkpoint']}`, digest `{record['checkpoint_digest']}`",
        "Architecture": f"{model['architecture']} `{model['name']}`: dim {model['dim']}, {model['num_layers']} layers, "
        f"{model['num_heads']} heads ({model['num_kv_heads']} key/value), vocabulary {model['vocab_size']:,}",
        "Sequence length": f"{recipe['seq_len']:,}",
        "Steps": f"{done['end_step']:,} of {recipe['sequences_per_step']:,} sequences",
        "Equivalent tokens": f"{done['equivalent_tokens']:,}",
        "Data tokens": f"{done['data_tokens']:,}",
        "Training FLOPs": f"{done['flops']:.4g}",
        "Peak learning rate": f"{recipe['learning_rate']:g}",
        "Precision in training": recipe["precision"],
        "Seed": recipe["seed"],
        "Validation loss": f"{done['validation_loss']:.4f} nats a token (held-out text of the corpus)",
        "Corpus": f"`{corpus['corpus_id']}`: {sources}",
        "Tokenizer digest": f"`{corpus['tokenizer']['digest']}`",
        "Code": f"tst-titan {provenance.get('tst_titan', 'unknown')}, commit {provenance.get('git_commit') or 'unknown'}"  # noqa: E501
        + (" with local changes" if provenance.get("git_dirty") else ""),
        "Packages": ", ".join(
            f"{name} {version}" for name, version in sorted(provenance.get("packages", {}).items()) if version
        )
        or "unknown",
    }


def _stage(stage: dict[str, Any]) -> str:
    text = f"{stage['name']}, steps {stage['start_step']:,} to {stage['end_step']:,}"
    if stage["name"] == "superposition":
        text += f": bags of {stage['bag_size']} tokens ({stage['superpose']}, {stage['bag_weighting']} weights)"
    if stage["reinit_embeddings"]:
        text += ", embedding and head re-initialized at its start"
    return text
