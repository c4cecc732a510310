"""Task definitions as a user writes them, for the tests of evaluations."""

import json
from pathlib import Path

QUESTION = {"q": "two and two is", "options": [" four", " six"], "gold": 0}


def user_task(folder: Path, name: str, *, rows=(QUESTION,) * 2, **changes) -> Path:
    """A multiple-choice task, of two questions where not said otherwise, in a user's folder of definitions."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    definition = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(definition))
    return path
