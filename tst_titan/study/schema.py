"""The JSON schema of a study file, for editors: `python -m tst_titan.study.schema` writes it anew."""

import json
from pathlib import Path
from typing import Any

from tst_titan.files import write_text
from tst_titan.study import catalogue
from tst_titan.study.definition import Study

SCHEMA_FILE = Path("workflow/schemas/study.schema.json")


def study_schema() -> dict[str, Any]:
    """The schema, generated from the pydantic model; short forms (a model's name, `bpe-4096`) included."""
    schema = Study.model_json_schema(mode="validation")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    known = {"type": "string", "enum": list(catalogue.MODELS)}
    any_name = {"type": "string", "description": "A model of the catalogue by name."}
    models = schema["properties"]["models"]
    schema["properties"]["models"] = {
        "description": "Names of models, or a mapping of names to what differs for each (a shape makes a new one).",
        "examples": [list(catalogue.MODELS)],
        "anyOf": [
            known,
            {"type": "array", "items": {**any_name, **known}, "minItems": 1, "uniqueItems": True},
            models,
        ],
    }
    definitions = schema["$defs"]
    tokenizer = definitions["Tokenizer"]
    definitions["Tokenizer"] = {
        "anyOf": [
            {"type": "string", "enum": list(catalogue.TOKENIZERS)},
            {"type": "string", "pattern": "^bpe-[0-9]+k?$"},
            tokenizer,
        ]
    }
    definitions["Corpus"]["properties"]["source"]["examples"] = list(catalogue.SOURCES)
    definitions["Evaluate"]["properties"]["tasks"]["examples"] = list(catalogue.TASK_GROUPS)
    # A key left empty stands for an empty mapping: `baseline:`.
    for name in ("models", "arms"):
        branch = models if name == "models" else schema["properties"]["arms"]
        branch["additionalProperties"] = {"anyOf": [branch["additionalProperties"], {"type": "null"}]}
    return schema


def schema_text() -> str:
    """The schema file's text."""
    return json.dumps(study_schema(), indent=2) + "\n"


if __name__ == "__main__":
    write_text(SCHEMA_FILE, schema_text())
    print(f"wrote {SCHEMA_FILE}")
