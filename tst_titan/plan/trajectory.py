"""A run as a trajectory: its recipe and its stages."""

from dataclasses import replace

from tst_titan.plan.settings import (
    CorpusSettings,
    ModelShape,
    MoEShape,
    Recipe,
    SourceSettings,
    Stage,
    TokenizerSettings,
)
from tst_titan.study import RunDefinition, catalogue
from tst_titan.study.corpus import Corpus
from tst_titan.study.recipe import Shape

# Settings of the learning rate's decay: of a stage, not of the recipe that all stages share.
STAGES_OWN = ("decay_fraction", "decay_to")


def corpus_settings(corpus: Corpus) -> CorpusSettings:
    """The corpus that a definition means, its known sources and tokenizers written out."""
    sources = []
    for name, weight in corpus.weights.items():
        source = corpus.sources.get(name)
        fields = source.model_dump() if source is not None else catalogue.SOURCES[name]
        sources.append(SourceSettings(name=name, weight=weight, **fields))
    return CorpusSettings(
        sources=tuple(sources),
        tokenizer=TokenizerSettings(**corpus.tokenizer.model_dump(exclude={"model_vocab_size"})),
        validation_tokens=corpus.validation_tokens,
        max_document_tokens=corpus.max_document_tokens,
        max_tokens=corpus.max_tokens,
    )


def model_shape(name: str, shape: Shape, vocab_size: int) -> ModelShape:
    """The model with its vocabulary, which is its tokenizer's."""
    fields = shape.model_dump(exclude={"moe"})
    moe = MoEShape(**shape.moe.model_dump()) if shape.moe is not None else None
    return ModelShape(name=name, vocab_size=vocab_size, moe=moe, **fields)


class Recipes:
    """Recipes of many runs: equal ones are one object, so that they are built and compared in no time."""

    def __init__(self) -> None:
        self._by_run: dict[tuple, Recipe] = {}
        self._corpora: dict[int, tuple[Corpus, CorpusSettings]] = {}
        self._interned: dict[Recipe, Recipe] = {}

    def of(self, run: RunDefinition) -> Recipe:
        """The recipe of ``run``: everything but its stages."""
        if id(run.corpus) not in self._corpora:
            # The definition is kept beside its settings: its id stays its own.
            self._corpora[id(run.corpus)] = (run.corpus, corpus_settings(run.corpus))
        key = (run.model, id(run.corpus), run.shape, run.seed, *run.training.values())
        if key not in self._by_run:
            tokenizer = run.corpus.tokenizer
            vocab_size = tokenizer.model_vocab_size or tokenizer.vocab_size
            settings = {name: value for name, value in run.training.items() if name not in STAGES_OWN}
            self._by_run[key] = self.intern(
                Recipe(
                    model=model_shape(run.model, run.shape, vocab_size),
                    corpus=self._corpora[id(run.corpus)][1],
                    seed=run.seed,
                    **settings,
                )
            )
        return self._by_run[key]

    def intern(self, recipe: Recipe) -> Recipe:
        """The one object that stands for all recipes equal to ``recipe``."""
        return self._interned.setdefault(recipe, recipe)


def run_stages(run: RunDefinition) -> tuple[Stage, ...]:
    """The stages of ``run``, whole: superposition or none, constant rate, decay."""
    stages = []
    if run.superposition_steps:
        stages.append(
            Stage(
                name="superposition",
                start_step=0,
                end_step=run.superposition_steps,
                bag_size=run.bag_size,
                bag_weighting=run.bag_weighting,
                superpose=run.superpose,  # type: ignore[arg-type]
            )
        )
        if run.superposition_steps < run.decay_start:
            stages.append(Stage(name="recovery", start_step=run.superposition_steps, end_step=run.decay_start))
    elif run.decay_start:
        stages.append(Stage(name="constant", start_step=0, end_step=run.decay_start))
    if run.decay_start < run.steps:
        decay_to = run.training["decay_to"]
        stages.append(
            Stage(
                name="decay",
                start_step=run.decay_start,
                end_step=run.steps,
                decay_end_step=run.steps,
                decay_to=decay_to,
            )
        )
    if run.reinit_embeddings:
        # Always the stage after superposition, which is the decay where no step of recovery lies between.
        stages[1] = replace(stages[1], reinit_embeddings=True)
    return tuple(stages)
