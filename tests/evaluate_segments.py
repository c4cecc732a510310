"""Real segments for the tests of `tst_titan.evaluate`: a small corpus and tiny models trained by the real trainer."""

import json
import sysconfig
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tst_titan.data.build import build_corpus
from tst_titan.plan.settings import (
    CorpusSettings,
    ModelShape,
    MoEShape,
    Recipe,
    Segment,
    SourceSettings,
    Stage,
    TokenizerSettings,
)
from tst_titan.train.hardware import Hardware
from tst_titan.train.job import Job
from tst_titan.train.launch import run_segment

VOCAB_SIZE, SEQ_LEN = 512, 64
DENSE = ModelShape(
    name="tiny", architecture="llama3", dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=64,
    vocab_size=VOCAB_SIZE,
)  # fmt: skip
TIED = ModelShape(**{**DENSE.__dict__, "name": "tied", "tied_embeddings": True})
MOE = ModelShape(
    name="moe", architecture="qwen3_moe", dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, ffn_dim=0,
    vocab_size=VOCAB_SIZE, rope_theta=1e6, norm_eps=1e-6,
    # A bias step of 0.05 a training step: biases large enough to change which experts are chosen.
    moe=MoEShape(num_experts=8, top_k=2, expert_ffn_dim=16, load_balance_coeff=0.05),
)  # fmt: skip


@cache
def results() -> Path:
    """A `results` folder with the corpus."""
    folder = Path(mkdtemp(prefix="evaluate-tests-")) / "results"
    build_corpus(corpus(), folder / "data" / corpus().id, num_workers=1)
    return folder


@cache
def corpus() -> CorpusSettings:
    """About 0.2M tokens of the standard library in documents of 3,000 characters."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = [
        (library / "email" / name).read_text(encoding="utf-8")
        for name in ("message.py", "header.py", "utils.py")
    ]
    texts += [
        (library / name).read_text(encoding="utf-8")
        for name in ("argparse.py", "typing.py", "tarfile.py", "inspect.py")
    ]
    documents = [text[start : start + 3000] for text in texts for start in range(0, len(text), 3000)]
    path = Path(mkdtemp(prefix="evaluate-tests-")) / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return CorpusSettings(
        sources=(SourceSettings(name="library", kind="files", path=str(path)),),
        tokenizer=TokenizerSettings(kind="bpe", vocab_size=VOCAB_SIZE),
        validation_tokens=4000,
    )


@cache
def segment(shape: ModelShape, precision: str = "float32", steps: int = 6) -> Segment:
    """A finished segment of `shape`, trained for some steps into `results()`."""
    made = Segment(
        recipe=Recipe(
            model=shape, corpus=corpus(), seq_len=SEQ_LEN, sequences_per_step=4, learning_rate=1e-2, warmup_steps=2,
            precision=precision, block_tokens=64,
        ),
        stages=(Stage(name="constant", start_step=0, end_step=steps),),
    )  # fmt: skip
    job = Job(
        segment=made, hardware=Hardware(), folder=results() / "segments" / made.id,
        corpus_dir=results() / "data" / corpus().id, parent_checkpoint=None, log_every=1, validate_every=0,
        validation_tokens=256,
    )  # fmt: skip
    assert run_segment(job) == 0
    return made
