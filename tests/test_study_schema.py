"""The JSON schema that editors use: current, true to the loader, and of help."""

import json
from pathlib import Path

import jsonschema
import pytest
from checkouts import published_studies

from tst_titan.study.definition import Study
from tst_titan.study.schema import SCHEMA_FILE, schema_text
from tst_titan.study.yaml_file import read_study_file, read_yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / SCHEMA_FILE).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_file_is_current() -> None:
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text(), (
        "write it anew: python -m tst_titan.study.schema"
    )


@pytest.mark.parametrize("file", published_studies(), ids=lambda file: file.stem)
def test_every_study_in_the_repository_passes_the_schema(
    file: Path, validator: jsonschema.Draft202012Validator
) -> None:
    data = read_study_file(file, Study.model_fields).data
    validator.validate(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bag_size: 4", "bagsize: 4"),
        ("step_ratio: 0.3", "step_ratio: 1.0"),
        ("bag_size: 4", "bag_size: []"),
        ("seq_len: 128", "sequence: 128"),
        ("steps: 1500", "steps: 0"),
        ("models: 1M", "models: 1m"),
        ("tokenizer: bpe-2048", "tokenizer: lama3"),
        ("precision: float32", "precision: float64"),
        ("compare: equal_flops", "compare: equal_flop"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(
    old: str, new: str, tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    text = (ROOT / "studies" / "quickstart.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "study.yaml").write_text(text.replace(old, new), encoding="utf-8")
    assert list(validator.iter_errors(read_yaml(tmp_path / "study.yaml")))


def test_every_field_of_an_arm_is_explained(validator: jsonschema.Draft202012Validator) -> None:
    for name, field in validator.schema["$defs"]["Arm"]["properties"].items():
        assert name in ("steps", "seeds") or field.get("description"), name
