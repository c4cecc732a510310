"""Two lm-eval tasks made of a corpus's held-out documents, the same ones every time: no network, no data of others.

`heldout_bits_per_byte`: log-likelihood of the beginnings of held-out documents. `heldout_cloze`: four-way multiple
choice; the true continuation of a passage against continuations of passages from three other held-out documents.
Chance is 0.25 for both of its metrics. Both are evaluated as they are made here, whatever lies in a corpus's folder;
ordinary task definitions (YAML beside JSONL) are left there for lm-eval's own command line (`--include_path`).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from tst_titan.bounds import RECORD_BYTES, bounded_lines
from tst_titan.errors import UserError
from tst_titan.files import write_text
from tst_titan.results import CorpusFiles

# Raised whenever the construction below changes: scores of different versions are not compared.
VERSION = 1.0
# Sizes that cost a 2M-parameter model a few seconds of one core (docs/evaluation.md has the measurement).
NUM_DOCUMENTS, TOTAL_CHARACTERS = 128, 200_000
NUM_QUESTIONS, CONTEXT_CHARACTERS, CONTINUATION_CHARACTERS = 240, 240, 80
NUM_CHOICES = 4

_SPACE_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")


class OfflineTask(NamedTuple):
    """One of the two tasks: lm-eval's settings but for the data, and the documents (split `test`)."""

    settings: dict[str, Any]
    rows: list[dict[str, Any]]

    def in_memory(self) -> dict[str, Any]:
        """Settings that read no file."""

        def documents(**_: Any) -> dict[str, Dataset]:
            return {"test": Dataset.from_list(self.rows)}

        return {**self.settings, "custom_dataset": documents}


def write_offline_tasks(corpus_dir: Path) -> dict[str, OfflineTask]:
    """The tasks of a corpus by name; writes them into its `tasks` folder, too.

    Files that are there with the same content are left alone. Raises `UserError` where the held-out text does not
    suffice.
    """
    corpus = CorpusFiles(corpus_dir)
    folder = corpus.tasks
    documents = list(_documents(corpus.held_out_text))
    if not documents:
        raise UserError("holds no text; build the corpus again", where=corpus.held_out_text)
    bits_per_byte = {
        **_shared("heldout_bits_per_byte"),
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    cloze = {
        **_shared("heldout_cloze"),
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc_norm", "acc")
        ],
    }
    tasks = [
        OfflineTask(bits_per_byte, excerpts(documents)),
        OfflineTask(cloze, questions(documents)),
    ]
    for task in tasks:
        _write_task(folder, task)
    return {task.settings["task"]: task for task in tasks}


def excerpts(documents: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The beginnings of the first documents, as long as an equal share of `TOTAL_CHARACTERS` allows: `id`, `text`."""
    chosen = documents[:NUM_DOCUMENTS]
    return [{"id": document["id"], "text": document["text"][: TOTAL_CHARACTERS // len(chosen)]} for document in chosen]


def questions(documents: list[dict[str, str]]) -> list[dict[str, Any]]:
    """`NUM_QUESTIONS` questions: `id`, `context`, `choices` (each starts with its space), `answer` (index of the true
    one).

    Passages are cut at spaces between words, at places that the documents' ids determine; documents take turns, and
    a document's own text is never offered as a wrong choice for it.
    """
    usable = [
        _Source(document["id"], document["text"], places)
        for document in documents
        if (places := _places(document["text"]))
    ]
    if len(usable) < NUM_CHOICES:
        raise UserError(
            f"heldout_cloze: needs {NUM_CHOICES} held-out documents of at least "
            f"{CONTEXT_CHARACTERS + 2 * CONTINUATION_CHARACTERS} characters, the corpus has {len(usable)}; raise the "
            "corpus's validation_tokens"
        )
    made = []
    for number in range(NUM_QUESTIONS):
        index = number % len(usable)
        key = f"{usable[index].id}:{number // len(usable)}"
        context, truth = _passage(usable[index], key)
        choices = [truth]
        step = 0
        while len(choices) < NUM_CHOICES and step < 50 * NUM_CHOICES:
            step += 1
            other = (index + 1 + _draw(f"{key}:other{step}", len(usable) - 1)) % len(usable)
            wrong = _passage(usable[other], f"{key}:place{step}")[1]
            if wrong not in choices:
                choices.append(wrong)
        if len(choices) < NUM_CHOICES:
            raise UserError(
                "heldout_cloze: the held-out documents are too alike to make wrong choices of; add documents"
            )
        answer = _draw(f"{key}:answer", NUM_CHOICES)
        choices.insert(answer, choices.pop(0))
        made.append({"id": key, "context": context, "choices": choices, "answer": answer})
    return made


class _Source(NamedTuple):
    """A document and the places in it where a passage may be cut into context and continuation."""

    id: str
    text: str
    places: list[int]


def _passage(source: _Source, key: str) -> tuple[str, str]:
    """Context and continuation at the place of `source` that `key` draws."""
    text, place = source.text, source.places[_draw(key, len(source.places))]
    continuation = text[place : place + CONTINUATION_CHARACTERS]
    # Whole words, at least one.
    words = re.match(r"(?s) \S.*(?=\s)", continuation)
    return text[place - CONTEXT_CHARACTERS : place], (words.group() if words else continuation).rstrip()


def _places(text: str) -> list[int]:
    last = len(text) - 2 * CONTINUATION_CHARACTERS
    return [match.start() for match in _SPACE_BETWEEN_WORDS.finditer(text, CONTEXT_CHARACTERS) if match.start() <= last]


def _draw(key: str, below: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % below


def _documents(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open("rb") as file:
            for number, line in bounded_lines(file, path, RECORD_BYTES):
                document = json.loads(line)
                if not isinstance(document, dict) or not {"id", "text"} <= document.keys():
                    raise UserError(f"line {number} has no id and text; build the corpus again", where=path)
                if document["text"]:
                    yield document
    except FileNotFoundError:
        raise UserError("no such file; build the corpus again: tst-titan data build STUDY", where=path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"damaged ({error}); delete the corpus folder and build it again", where=path) from error


def _shared(name: str) -> dict[str, Any]:
    return {"task": name, "test_split": "test", "num_fewshot": 0, "metadata": {"version": VERSION}}


def _write_task(folder: Path, task: OfflineTask) -> None:
    name = task.settings["task"]
    data = (folder / f"{name}.jsonl").absolute()
    _write(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in task.rows))
    source = {
        "dataset_path": "json",
        # Absolute: lm-eval resolves it against the working directory.
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder.absolute() / "cache")},
    }
    # JSON is YAML, and needs no care about quoting.
    _write(folder / f"{name}.yaml", json.dumps(task.settings | source, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    content = text.encode()
    if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
        write_text(path, text)
