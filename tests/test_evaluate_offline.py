"""The offline tasks: the same every time, true where they say so, with a standard error that means something."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from evaluate_segments import corpus, results

from tst_titan.errors import UserError
from tst_titan.evaluate.offline import NUM_CHOICES, NUM_QUESTIONS, excerpts, questions, write_offline_tasks
from tst_titan.evaluate.scores import ratio_with_stderr, scores_of


def held_out():
    path = results() / "data" / corpus().id / "validation.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_true_choice_continues_its_context_and_the_others_come_from_other_documents():
    documents = {document["id"]: document["text"] for document in held_out()}
    made = questions(held_out())
    assert len(made) == NUM_QUESTIONS
    for question in made:
        own = question["id"].rpartition(":")[0]
        truth = question["choices"][question["answer"]]
        assert question["context"] + truth in documents[own]
        assert len(set(question["choices"])) == NUM_CHOICES
        for choice in question["choices"]:
            assert choice.startswith(" ")
            assert choice[1:].strip()
            if choice != truth:
                assert any(choice in text for id, text in documents.items() if id != own)
    # The place of the truth says nothing: each of four is drawn 60 times, give or take four standard deviations.
    counts = Counter(question["answer"] for question in made)
    assert all(abs(counts[place] - 60) < 4 * math.sqrt(240 * 0.25 * 0.75) for place in range(NUM_CHOICES))


def test_tasks_are_written_once_and_equal_every_time(tmp_path):
    (tmp_path / "validation.jsonl").write_bytes((results() / "data" / corpus().id / "validation.jsonl").read_bytes())
    assert set(write_offline_tasks(tmp_path)) == {"heldout_bits_per_byte", "heldout_cloze"}
    folder = tmp_path / "tasks"
    written = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert len(written) == 4
    write_offline_tasks(tmp_path)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == written


def test_long_and_many_documents_share_the_text_that_is_scored():
    few = excerpts([{"id": str(n), "text": "x" * 90_000} for n in range(4)])
    many = excerpts([{"id": str(n), "text": "x" * 90_000} for n in range(300)])
    assert (len(few), len(few[0]["text"])) == (4, 50_000)
    assert (len(many), len(many[0]["text"])) == (128, 1562)


def test_too_little_held_out_text_is_said(tmp_path):
    lines = [json.dumps({"id": "a", "text": "too short"})]
    (tmp_path / "validation.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"needs 4 held-out documents .* the corpus has 0; raise .*validation_tokens"):
        write_offline_tasks(tmp_path)
    (tmp_path / "validation.jsonl").write_text('{"id": "a", "te')
    with pytest.raises(UserError, match=r"validation.jsonl: damaged"):
        write_offline_tasks(tmp_path)
    (tmp_path / "validation.jsonl").unlink()
    with pytest.raises(UserError, match=r"validation.jsonl: no such file"):
        write_offline_tasks(tmp_path)


def test_the_standard_error_of_a_ratio_is_its_spread_over_draws_of_documents():
    rng = np.random.default_rng(0)

    def documents(count):
        size = rng.lognormal(8, 1, count)
        return np.stack([size * rng.normal(2.0, 0.3, count), size], axis=1)

    draws = [ratio_with_stderr([tuple(row) for row in documents(100)]) for _ in range(2000)]
    spread = np.std([ratio for ratio, _ in draws])
    # The estimate is a little low on average for sizes this uneven, as linearized ones are.
    assert np.mean([stderr for _, stderr in draws]) == pytest.approx(spread, rel=0.12)
    assert ratio_with_stderr([(3.0, 2.0)]) == (1.5, None)


def test_bits_per_byte_and_perplexity_get_their_standard_error_and_missing_scores_stay_missing():
    pairs = [(-120.0, 100), (-90.0, 60), (-200.0, 170)]
    ratio, stderr = ratio_with_stderr([(-y, x) for y, x in pairs])
    results_of_lm_eval = {
        "results": {
            "t": {
                "alias": "t",
                "sample_len": 3,
                "bits_per_byte,none": ratio / math.log(2),
                "bits_per_byte_stderr,none": "N/A",
                "byte_perplexity,none": math.exp(ratio),
                "byte_perplexity_stderr,none": "N/A",
                "acc,none": float("nan"),
                "acc_stderr,none": float("nan"),
            }
        },
        "group_subtasks": {},
        "versions": {"t": 2.0},
        "n-shot": {"t": 0},
        "n-samples": {"t": {"original": 9, "effective": 3}},
        "higher_is_better": {"t": {"bits_per_byte": False, "byte_perplexity": False, "acc": True}},
        "samples": {"t": [{"bits_per_byte": pair, "byte_perplexity": pair} for pair in pairs]},
    }
    task = scores_of(results_of_lm_eval)["tasks"]["t"]
    assert task["bits_per_byte"]["stderr"] == pytest.approx(stderr / math.log(2))
    assert task["byte_perplexity"]["stderr"] == pytest.approx(math.exp(ratio) * stderr)
    assert task["bits_per_byte"]["higher_is_better"] is False
    assert "acc" not in task
    assert (task["metric"], task["num_samples"], task["version"]) == ("bits_per_byte", 3, "2.0")
