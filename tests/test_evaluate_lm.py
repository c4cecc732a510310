"""A checkpoint's scores: those of the trainer, those of lm-eval's own backend on the export, at any batch size."""

import pytest
import torch
from evaluate_segments import DENSE, MOE, SEQ_LEN, VOCAB_SIZE, initialized, results, trained
from lm_eval.api.instance import Instance

from tst_titan.data.tokenizers import load_tokenizer
from tst_titan.data.validation import validation_windows
from tst_titan.errors import UserError
from tst_titan.evaluate.checkpoint import find_checkpoint, load_model
from tst_titan.evaluate.export import export
from tst_titan.evaluate.lm import TitanLM

TEXT = "def parse(self, text):\n    '''Return the parts of text, split at the separator.'''\n    return text.split()\n"


def lm_of(segment):
    checkpoint = find_checkpoint(results(), segment.id)
    return TitanLM(load_model(checkpoint), load_tokenizer(checkpoint.tokenizer_dir), max_length=SEQ_LEN)


def requests(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=index, metadata=("task", index, 1))
        for index, args in enumerate(arguments)
    ]


PAIRS = requests(
    "loglikelihood",
    ("The parser", " returns the text"),
    ("The parser", " fails"),
    ("The parser ", "fails"),
    ("", "import os"),
    (TEXT * 3, " yield"),
    ("Question: which?\nAnswer:", " A"),
    ("Question: which?\nAnswer:", " B"),
    # Text, in training too.
    ("It ends with <|endoftext|> here", " and <|endoftext|>"),
)
TEXTS = requests("loglikelihood_rolling", (TEXT,), ("",), (TEXT * 4,), ("x",), ("An <|endoftext|> inside",))


def test_a_checkpoint_of_two_ranks_scores_what_the_trainer_measured():
    segment = trained(DENSE, processes=2)
    checkpoint = find_checkpoint(results(), segment.id)
    assert len(list(checkpoint.path.glob("*.distcp"))) == 2
    windows = validation_windows(checkpoint.corpus_dir, SEQ_LEN, 1024).tolist()
    scores = lm_of(segment)._loglikelihood_tokens([(None, [row[0]], row[1:]) for row in windows])
    loss = -sum(score for score, _ in scores) / (len(windows) * SEQ_LEN)
    assert loss == pytest.approx(checkpoint.done["validation_loss"], rel=1e-6)


@pytest.mark.parametrize("shape", [DENSE, MOE], ids=["dense", "moe"])
def test_scores_are_those_of_lm_evals_own_backend_on_the_export(shape):
    from tst_titan.evaluate.through_export import load_export

    segment = trained(shape, processes=2 if shape is DENSE else 1)
    ours = lm_of(segment)
    theirs = load_export(
        export(results(), segment.id), find_checkpoint(results(), segment.id), device="cpu", dtype="float32"
    )
    assert theirs.max_length == SEQ_LEN
    for (score, greedy), (expected, expected_greedy) in zip(
        ours.loglikelihood(PAIRS), theirs.loglikelihood(PAIRS), strict=True
    ):
        assert score == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert greedy == expected_greedy
    assert ours.loglikelihood_rolling(TEXTS) == pytest.approx(theirs.loglikelihood_rolling(TEXTS), rel=1e-6)
    generation = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    prompts = requests("generate_until", ("The parser", generation), (TEXT * 3, generation))
    assert ours.generate_until(prompts) == theirs.generate_until(prompts)


def test_batches_change_no_score():
    lm = lm_of(initialized(DENSE))
    together = lm.loglikelihood(PAIRS)
    lm.batch_positions, lm.batch_logits = 1, 1
    alone = lm.loglikelihood(PAIRS)
    assert [score for score, _ in together] == pytest.approx([score for score, _ in alone], rel=1e-6)


def test_the_head_sees_scored_positions_only_and_equal_inputs_once():
    lm = lm_of(initialized(DENSE))
    rows = []
    lm.model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    context, continuation = list(range(40)), [1, 2, 3]
    lm._loglikelihood_tokens([(None, context, continuation)])
    assert sum(rows) == 3
    rows.clear()
    # One-token answers to one question, as in MMLU: four requests, one row.
    lm._loglikelihood_tokens([(None, context, [token]) for token in range(4)])
    assert sum(rows) == 1


def test_out_of_memory_halves_the_batch_and_loses_nothing():
    lm = lm_of(initialized(DENSE))
    expected = lm.loglikelihood(PAIRS)
    sizes = []

    def small_memory(module, args):
        sizes.append(args[0].numel())
        if args[0].numel() > 2 * SEQ_LEN:
            raise torch.OutOfMemoryError

    lm.model.register_forward_pre_hook(small_memory)
    assert [s for s, _ in lm.loglikelihood(PAIRS)] == pytest.approx([s for s, _ in expected], rel=1e-6)
    assert lm.batch_positions <= 2 * SEQ_LEN < max(sizes)
    # What fitted is remembered.
    sizes.clear()
    lm.loglikelihood(PAIRS)
    assert max(sizes) <= 2 * SEQ_LEN


def test_a_continuation_longer_than_the_models_sequences_is_scored_in_pieces():
    """A continuation of 67 tokens ended the evaluation of a model of sequences of 64, when all was trained."""
    lm = lm_of(initialized(DENSE))
    context, continuation = [5, 6, 7], [(7 * n) % VOCAB_SIZE for n in range(2 * SEQ_LEN + 10)]
    whole = torch.tensor(context + continuation)
    expected = 0.0
    for start in range(0, len(continuation), SEQ_LEN):
        end = len(context) + min(start + SEQ_LEN, len(continuation))
        window = whole[max(0, end - SEQ_LEN - 1) : end]
        count = end - len(context) - start
        with torch.no_grad():
            logits = lm.model.lm_head(lm.model(window[None, :-1]))[0, -count:]
        expected += logits.log_softmax(-1)[range(count), window[-count:]].double().sum().item()
    ((score, greedy),) = lm._loglikelihood_tokens([(None, context, continuation)])
    assert score == pytest.approx(expected, rel=1e-6)
    assert not greedy
    # What fits is scored as before.
    ((fits, _), (shorter, _)) = lm._loglikelihood_tokens(
        [(None, context, continuation[:SEQ_LEN]), (None, context, continuation[: SEQ_LEN - 1])]
    )
    assert fits < shorter < 0


def test_what_the_model_cannot_do_is_said():
    lm = lm_of(initialized(DENSE))
    sampled = requests("generate_until", ("x", {"until": [], "max_gen_toks": 5, "do_sample": True, "temperature": 1.0}))
    with pytest.raises(UserError, match="asks for sampling"):
        lm.generate_until(sampled)
    long = requests("generate_until", ("x", {"until": [], "max_gen_toks": SEQ_LEN}))
    with pytest.raises(UserError, match=r"generates up to 64 tokens"):
        lm.generate_until(long)
