"""The corpus of a study, as a definition writes it: sources, tokenizer, what is held out."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, field_validator, model_validator

from tst_titan.study import catalogue
from tst_titan.study.fields import Name, Positive, Rate, Strict, Tokens, choices


def _patterns(value: Any) -> Any:
    """One pattern or a list: the settings hold a pattern a line."""
    several = value if isinstance(value, list) else [value]
    if value == [] or not all(isinstance(item, str) for item in several):
        raise ValueError("must be text or a list of texts")
    if any(not item.strip() for item in several if len(several) > 1) or any("\n" in item for item in several):
        raise ValueError("must be one pattern each, not empty and without a line end")
    return "\n".join(several)


Patterns = Annotated[str, BeforeValidator(_patterns, json_schema_input_type=str | list[str])]


_PROPORTIONS = TypeAdapter(dict[Name, Rate], config={"strict": True})
_BY_SIZE: Literal["proportional"] = "proportional"
Weights = dict[str, float] | dict[str, Literal["proportional"]]


def _mix(value: Any) -> Weights | Literal["proportional"]:
    """Proportions as shares of 1, or the word, once or for each."""
    if value == _BY_SIZE:
        return _BY_SIZE
    if isinstance(value, str):
        raise ValueError(f"must be {_BY_SIZE} or a mapping of sources to proportions")
    if isinstance(value, dict) and _BY_SIZE in value.values():
        if set(map(str, value.values())) != {_BY_SIZE}:
            raise ValueError(f"must be {_BY_SIZE} for each source, or a number for each")
        return dict.fromkeys(value, _BY_SIZE)
    # Its mistakes are told in their places.
    weights = _PROPORTIONS.validate_python(value)
    if abs(sum(weights.values()) - 1) <= 1e-6:
        return weights
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


Mix = Annotated[
    Weights | Literal["proportional"],
    PlainValidator(_mix, json_schema_input_type=dict[Name, Rate | Literal["proportional"]] | Literal["proportional"]),
]


class Source(Strict):
    """A source of documents of one's own."""

    kind: Literal["files", "hub"]
    path: Patterns = Field(
        min_length=1,
        description="files: a file, folder or glob, or a list of them, relative to the folder of the study file; hub: the dataset's repository.",  # noqa: E501
    )
    revision: str = ""
    subset: str = ""
    split: str = "train"
    file_pattern: Patterns = Field(default="", description="Files below a folder: a glob or a list of globs.")
    text_column: str = "text"

    @model_validator(mode="after")
    def _one_dataset(self) -> "Source":
        if self.kind == "hub" and "\n" in self.path + self.file_pattern:
            raise ValueError("a source of kind hub has one path and one file_pattern: make each a source of its own")
        return self


class Tokenizer(Strict):
    """`llama3`, `qwen3`, `bpe-4096` (trained on the corpus), or a mapping for any other."""

    kind: Literal["bpe", "file", "hub"]
    vocab_size: Annotated[int, Field(ge=257, le=2**24)]
    name: str = Field(
        default="",
        description="file: path of the tokenizer.json, relative to the folder of the study file; hub: the repository.",
    )
    revision: str = ""
    model_vocab_size: Positive | None = Field(
        default=None,
        description="Rows of the models' embeddings where they are more than the tokenizer's ids.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value in catalogue.TOKENIZERS:
            known = catalogue.TOKENIZERS[value]
            return {"kind": "hub", **vars(known)}
        match = re.fullmatch(r"bpe-([0-9]+)(k?)", value)
        if match:
            return {"kind": "bpe", "vocab_size": int(match[1]) * (1024 if match[2] else 1)}
        raise ValueError(f"no such tokenizer; {choices(value, [*catalogue.TOKENIZERS, 'bpe-4096'])}, or a mapping")

    @model_validator(mode="after")
    def _consistent(self) -> "Tokenizer":
        if self.kind != "bpe" and not self.name:
            raise ValueError(f"a tokenizer of kind {self.kind} needs its name")
        if self.model_vocab_size is not None and self.model_vocab_size < self.vocab_size:
            raise ValueError(
                f"model_vocab_size ({self.model_vocab_size}) cannot be less than vocab_size ({self.vocab_size})"
            )
        return self


class Corpus(Strict):
    """The text: one `source` or a `mix` of several by weight, its tokenizer, and what is held out."""

    source: str | None = Field(default=None, description="One source by name; see also `mix`.")
    mix: Mix | None = Field(
        default=None,
        description="Sources and the proportions in which training reads their tokens; proportional (all of `sources`, or each that is "  # noqa: E501
        "named): by their files' bytes.",
    )
    sources: dict[Name, Source] = Field(
        default={}, description="Sources of one's own, by the name that source or mix uses."
    )
    tokenizer: Tokenizer
    validation_tokens: Tokens = Field(default=10_000_000, description="Held-out tokens, at least (whole documents).")
    max_document_tokens: Tokens = Field(
        default=0, description="Cut documents into pieces of at most this many tokens; 0: never."
    )
    max_tokens: Tokens = Field(default=0, description="Training tokens taken from each source; 0: all.")

    @field_validator("max_document_tokens")
    @classmethod
    def _room_for_text(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be at least 2 (the end of text is one of them), or 0: never cut")
        return value

    @model_validator(mode="after")
    def _known_sources(self) -> "Corpus":
        if (self.source is None) == (self.mix is None):
            raise ValueError("needs either source (one name) or mix (names with weights)")
        if self.mix == _BY_SIZE and len(self.sources) < 2:
            raise ValueError(
                "mix: proportional mixes what stands under corpus.sources: describe two sources or more there"
            )
        known = [*catalogue.SOURCES, *self.sources]
        for name in self.weights:
            if name not in known:
                raise ValueError(
                    f"no such source {name!r}; {choices(name, known)}, or describe it under corpus.sources"
                )
        return self

    @property
    def weights(self) -> Weights:
        """Share of the training tokens by source."""
        if self.mix is None:
            return {str(self.source): 1.0}
        return self.mix if isinstance(self.mix, dict) else dict.fromkeys(self.sources, _BY_SIZE)
