"""An export computes what the checkpoint computes, holds everything that is in it, and appears whole or not at all."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from evaluate_segments import DENSE, MOE, SEQ_LEN, TIED, VOCAB_SIZE, initialized, results, trained
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tst_titan.data.build import build_corpus
from tst_titan.data.shards import open_shard
from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.errors import UserError
from tst_titan.evaluate import export as export_module
from tst_titan.evaluate.checkpoint import find_checkpoint, load_model
from tst_titan.evaluate.export import export, read_export
from tst_titan.evaluate.export_tokenizer import tokenizer_files
from tst_titan.evaluate.through_export import load_export
from tst_titan.plan.settings import CorpusSettings, SourceSettings, TokenizerSettings

# Without load balancing the router has no bias.
PLAIN_MOE = replace(MOE, name="plain-moe", moe=replace(MOE.moe, load_balance_coeff=1e-3))


def logits(segment, folder, **options):
    """Float32 logits of torchtitan on the checkpoint and of transformers on the export."""
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(VOCAB_SIZE, (3, SEQ_LEN), generator=generator)
    ours = load_model(find_checkpoint(results(), segment.id))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return ours(tokens_BL), theirs(tokens_BL).logits


@pytest.mark.parametrize("shape", [TIED, PLAIN_MOE], ids=["tied llama3", "qwen3_moe"])
def test_logits_are_torchtitans(shape, tmp_path):
    segment = initialized(shape)
    ours, theirs = logits(segment, export(results(), segment.id, out=tmp_path / "export"))
    assert (ours - theirs).abs().max() <= 1e-5
    assert ours.std() > 0.05


def test_logits_of_a_trained_sharded_checkpoint_are_torchtitans(tmp_path):
    segment = trained(DENSE, processes=2)
    ours, theirs = logits(segment, export(results(), segment.id, out=tmp_path / "export"))
    assert (ours - theirs).abs().max() <= 1e-5


def test_router_biases_are_exported_and_never_left_out_in_silence(tmp_path):
    segment = trained(MOE)
    folder = export(results(), segment.id, out=tmp_path / "export")
    ours, theirs = logits(segment, folder, trust_remote_code=True)
    assert (ours - theirs).abs().max() <= 1e-5
    # The biases matter: without them the logits are others.
    biasless = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True)
    with torch.no_grad():
        for layer in biasless.model.layers:
            layer.mlp.gate.e_score_correction_bias.zero_()
        tokens_BL = torch.randint(VOCAB_SIZE, (3, SEQ_LEN), generator=torch.Generator().manual_seed(0))
        assert (biasless(tokens_BL).logits - theirs).abs().max() > 0.01
    # They stay exact where the weights are rounded.
    rounded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, trust_remote_code=True)
    bias = rounded.model.layers[0].mlp.gate.e_score_correction_bias
    expected = load_model(find_checkpoint(results(), segment.id)).layers["0"].moe.expert_bias_E
    assert torch.equal(bias, expected)
    assert rounded.lm_head.weight.dtype == torch.bfloat16
    # Without the code that the export brings, transformers loads nothing rather than a model without biases.
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)


def test_a_tensor_without_a_place_is_an_error(tmp_path):
    segment = initialized(replace(DENSE, name="extra"))
    path = results() / "segments" / segment.id / "checkpoint" / "step-1"
    model = load_model(find_checkpoint(results(), segment.id))
    for name in ("layers.0.attention.wo.bias", "scale"):
        dcp.save(model.state_dict() | {name: torch.ones(3)}, checkpoint_id=str(path), no_dist=True)
        with pytest.raises(UserError, match=rf"{name} is not zero and .* has no place for it"):
            export(results(), segment.id, out=tmp_path / "export")
        assert list(tmp_path.iterdir()) == []
    dcp.save(model.state_dict() | {name: torch.zeros(3)}, checkpoint_id=str(path), no_dist=True)
    export(results(), segment.id, out=tmp_path / "export")


def test_shards_are_small_and_hold_the_same_weights(tmp_path):
    segment = initialized(PLAIN_MOE)
    limit = 100_000
    whole = export(results(), segment.id, out=tmp_path / "whole")
    sharded = export(results(), segment.id, out=tmp_path / "sharded", shard_bytes=limit)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    files = sorted(sharded.glob("model-*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == [path.name for path in files]
    assert len(files) > 2
    # Names and lengths at the head of each file come on top of the tensors.
    assert all(path.stat().st_size < limit + 10_000 for path in files)
    with safe_open(whole / "model.safetensors", "pt") as expected:
        assert set(expected.keys()) == index["weight_map"].keys()
        for name, file in index["weight_map"].items():
            with safe_open(sharded / file, "pt") as part:
                assert torch.equal(part.get_tensor(name), expected.get_tensor(name))
    ours, theirs = logits(segment, sharded)
    assert (ours - theirs).abs().max() <= 1e-5


def test_weights_in_bfloat16_are_the_rounded_ones(tmp_path):
    segment = initialized(DENSE)
    folder = export(results(), segment.id, out=tmp_path / "export", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    expected = load_model(find_checkpoint(results(), segment.id)).lm_head.weight.bfloat16()
    assert torch.equal(model.lm_head.weight, expected)


def test_the_directory_is_complete(tmp_path):
    segment = trained(DENSE, processes=2)
    folder = export(results(), segment.id, out=tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = load_tokenizer(results() / "data" / segment.recipe.corpus.id / "tokenizer")
    assert config["eos_token_id"] == tokenizer.eos_id
    assert config["max_position_embeddings"] == SEQ_LEN
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_id
    text = "def f(x): return x  # é\n"
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokenizer.encode([text])[0].tolist()
    card = (folder / "README.md").read_text()
    for fact in (segment.id, "1,536", "tst_titan.json", "torchtitan 0.3.0"):
        assert fact in card


EOS = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [EOS, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
ENDS = {"sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0]}
TRUNCATION = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}  # fmt: skip
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.mark.parametrize(
    "given",
    [
        {},
        # Llama-3's puts a begin-of-text token before every text.
        {"post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}},
        {
            "post_processor": {
                "type": "RobertaProcessing",
                **ENDS,
                "trim_offsets": True,
                "add_prefix_space": False,
            }
        },
        {"post_processor": {"type": "BertProcessing", **ENDS}},
        {"truncation": TRUNCATION, "padding": PADDING},
        # The end of text as an ordinary added token, which `tokenizers` recognizes inside of a text.
        {"added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": False, **ADDED}]},
        # Special tokens beyond the vocabulary proper.
        {
            "added_tokens": [
                {"id": 0, "content": "<|endoftext|>", "special": True, **ADDED},
                {"id": 512, "content": "<|start|>", "special": True, **ADDED},
            ]
        },
    ],
    ids=[
        "ours",
        "template",
        "roberta",
        "bert",
        "truncation and padding",
        "ordinary end",
        "more special tokens",
    ],
)
def test_training_and_the_export_make_the_same_ids_of_a_text(given, tmp_path):
    """Tokens were added, texts cut at 16 ids, and a literal end of text was one id in the export and characters in
    training."""
    source = results() / "data" / initialized(DENSE).recipe.corpus.id / "tokenizer"
    tokenizer = json.loads((source / "tokenizer.json").read_text()) | given
    (tmp_path / "given").mkdir()
    (tmp_path / "given/tokenizer.json").write_text(json.dumps(tokenizer))
    texts = [f"text {n}, café, <|endoftext|>in the <|start|> middle, and " + "more of it " * n for n in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = CorpusSettings(
        sources=(SourceSettings(name="texts", kind="files", path=str(tmp_path / "texts.jsonl")),),
        tokenizer=TokenizerSettings(kind="file", vocab_size=VOCAB_SIZE + 1, name=str(tmp_path / "given")),
        validation_tokens=100,
    )
    build_corpus(settings, tmp_path / "corpus", num_workers=1)
    trained_on = set()
    for shard in (tmp_path / "corpus").glob("*/**/*.arrow"):
        opened = open_shard(shard)
        trained_on |= {
            tuple(opened.ids[start:end].tolist()) for start, end in itertools.pairwise(opened.document_offsets.tolist())
        }

    (tmp_path / "export").mkdir()
    for name, content in tokenizer_files(tmp_path / "corpus/tokenizer", SEQ_LEN).items():
        (tmp_path / "export" / name).write_text(json.dumps(content))
    exported = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert exported.model_max_length == SEQ_LEN
    end = exported.eos_token_id
    assert {(*exported(text)["input_ids"], end) for text in texts} == trained_on
    assert all(ids.count(end) == 1 for ids in trained_on)
    # Whoever loads the file with `tokenizers` says this himself: the file has no place for it.
    loaded = Tokenizer.from_file(str(tmp_path / "export/tokenizer.json"))
    loaded.encode_special_tokens = True
    assert {(*loaded.encode(text).ids, end) for text in texts} == trained_on


def test_an_export_is_made_once_replaced_by_a_newer_one_and_never_overwrites_other_things(tmp_path):
    segment = initialized(DENSE)
    folder = export(results(), segment.id, out=tmp_path / "export")
    made = (folder / "config.json").stat().st_mtime_ns
    assert export(results(), segment.id, out=folder) == folder
    assert (folder / "config.json").stat().st_mtime_ns == made
    # One whose tokenizer makes other ids of a text, as older versions wrote it, is replaced, and not evaluated.
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer) | {"truncation": TRUNCATION}))
    with pytest.raises(UserError, match="its tokenizer is not the corpus's; run: tst-titan export"):
        load_export(folder, find_checkpoint(results(), segment.id), device="cpu", dtype="float32")
    export(results(), segment.id, out=folder)
    assert (folder / "tokenizer.json").read_text() == tokenizer
    export(results(), segment.id, out=folder, dtype="bfloat16")
    assert read_export(folder)["dtype"] == "bfloat16"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("notes")
    with pytest.raises(UserError, match="not an export of tst-titan"):
        export(results(), segment.id, out=tmp_path / "mine")


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "model_card", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(results(), initialized(DENSE).id, out=tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
