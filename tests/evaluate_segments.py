"""Real segments for the tests of `tst_titan.evaluate`: a small corpus, tiny models, checkpoints by the real trainer."""

import atexit
import json
import shutil
import sysconfig
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from training import PUBLISHED, constant

from tst_titan.data.build import build_corpus
from tst_titan.files import write_json
from tst_titan.plan.settings import (
    CorpusSettings,
    ModelShape,
    Recipe,
    Segment,
    SourceSettings,
    TokenizerSettings,
    segment_to_dict,
)
from tst_titan.plan.trajectory import model_shape
from tst_titan.study.recipe import Experts, Shape
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job
from tst_titan.train.launch import run_segment

VOCAB_SIZE, SEQ_LEN = 512, 64
DENSE = model_shape(
    "tiny",
    Shape(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=64),
    VOCAB_SIZE,
)
TIED = replace(DENSE, name="tied", tied_embeddings=True)
MOE = model_shape(
    "moe",
    Shape(
        architecture="qwen3_moe", dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, rope_theta=1e6,
        norm_eps=1e-6,
        # A bias step of 0.05 a training step: biases large enough to change which experts are chosen.
        moe=Experts(num_experts=8, top_k=2, expert_ffn_dim=16, load_balance_coeff=0.05),
    ),
    VOCAB_SIZE,
)  # fmt: skip


@cache
def scratch() -> Path:
    """A folder that lasts as long as the test process."""
    folder = Path(mkdtemp(prefix="evaluate-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def results() -> Path:
    """A `results` folder with the corpus."""
    folder = scratch() / "results"
    build_corpus(corpus(), folder / "data" / corpus().id, num_workers=1)
    return folder


@cache
def corpus() -> CorpusSettings:
    """About 0.2M tokens of the standard library in documents of 3,000 characters."""
    library = Path(sysconfig.get_path("stdlib"))
    modules = ("argparse", "typing", "tarfile", "inspect", "email/message", "email/header", "email/utils")
    texts = [(library / f"{module}.py").read_text(encoding="utf-8") for module in modules]
    documents = [text[start : start + 3000] for text in texts for start in range(0, len(text), 3000)]
    path = scratch() / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return CorpusSettings(
        sources=(SourceSettings(name="library", kind="files", path=str(path)),),
        tokenizer=TokenizerSettings(kind="bpe", vocab_size=VOCAB_SIZE),
        validation_tokens=5000,
    )


def segment_of(shape: ModelShape, steps: int) -> Segment:
    settings = {
        "model": shape, "corpus": corpus(), "seq_len": SEQ_LEN, "sequences_per_step": 4, "learning_rate": 1e-2,
        "warmup_steps": 2, "precision": "float32", "block_tokens": 64, "seed": 0,
    }  # fmt: skip
    return Segment(recipe=Recipe(**PUBLISHED | settings), stages=(constant(steps),))


@cache
def trained(shape: ModelShape, processes: int = 1, steps: int = 6) -> Segment:
    """A segment of `shape` in `results()`, trained as the workflow does, on some ranks."""
    segment = segment_of(shape, steps)
    job = Job(
        segment=segment, hardware=Hardware(processes=processes), folder=results() / "segments" / segment.id,
        corpus_dir=results() / "data" / corpus().id, parent_checkpoint=None, log_every=1, validate_every=0,
        validation_tokens=1024, studies={},
    )  # fmt: skip
    assert run_segment(job) == 0
    return segment


@cache
def initialized(shape: ModelShape) -> Segment:
    """A segment of `shape` in `results()` whose checkpoint holds the initial weights: no training, so no time."""
    import torch
    import torch.distributed.checkpoint as dcp

    from tst_titan.train.titan.models import model_spec

    segment = segment_of(shape, 1)
    folder = results() / "segments" / segment.id
    model = model_spec(shape, seq_len=SEQ_LEN, seed=0).model.build()
    with torch.no_grad():
        model.init_states()
    dcp.save(model.state_dict(), checkpoint_id=str(folder / "checkpoint" / "step-1"), no_dist=True)
    write_json(folder / "settings.json", segment_to_dict(segment))
    done = {
        "checkpoint": "checkpoint/step-1",
        "end_step": 1,
        "equivalent_tokens": 0,
        "data_tokens": 0,
        "flops": 0.0,
    }
    write_json(folder / "done.json", {**done, "validation_loss": 6.2})
    return segment
