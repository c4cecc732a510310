"""The corpus of a study, as a definition writes it: sources, tokenizer, what is held out."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tst_titan.study import catalogue
from tst_titan.study.fields import Name, Positive, Strict, Tokens, choices, number


class Source(Strict):
    """A source of documents of one's own."""

    kind: Literal["files", "hub"]
    path: str = Field(
        min_length=1, description="files: a file, folder or glob; hub: the dataset's repository."
    )
    revision: str = ""
    subset: str = ""
    split: str = "train"
    file_pattern: str = ""
    text_column: str = "text"


class Tokenizer(Strict):
    """`llama3`, `qwen3`, `bpe-4096` (trained on the corpus), or a mapping for any other."""

    kind: Literal["bpe", "file", "hub"]
    vocab_size: Annotated[int, Field(ge=257, le=2**24)]
    name: str = Field(default="", description="file: path of the tokenizer.json; hub: the repository.")
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
        raise ValueError(
            f"no such tokenizer; {choices(value, [*catalogue.TOKENIZERS, 'bpe-4096'])}, or a mapping"
        )

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
    mix: dict[Name, Annotated[float, Field(gt=0, le=1), BeforeValidator(number)]] | None = Field(
        default=None, description="Sources and their shares of the training tokens; the shares sum to 1."
    )
    sources: dict[Name, Source] = Field(
        default={}, description="Sources of one's own, by the name that source or mix uses."
    )
    tokenizer: Tokenizer
    validation_tokens: Tokens = Field(
        default=10_000_000, description="Held-out tokens, at least (whole documents)."
    )
    max_document_tokens: Tokens = Field(
        default=0, description="Cut documents into pieces of at most this many tokens; 0: never."
    )
    max_tokens: Tokens = Field(default=0, description="Training tokens taken from each source; 0: all.")

    @field_validator("mix")
    @classmethod
    def _mix_sums(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"the weights must sum to 1, but sum to {sum(value.values()):g}")
        return value

    @model_validator(mode="after")
    def _known_sources(self) -> "Corpus":
        if (self.source is None) == (self.mix is None):
            raise ValueError("needs either source (one name) or mix (names with weights)")
        known = [*catalogue.SOURCES, *self.sources]
        for name in self.weights:
            if name not in known:
                raise ValueError(
                    f"no such source {name!r}; {choices(name, known)}, or describe it under corpus.sources"
                )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Share of the training tokens by source."""
        return self.mix if self.mix is not None else {str(self.source): 1.0}
