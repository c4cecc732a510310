"""Definition -> runs -> segments: which jobs there are, and where each picks up what others have trained.

All studies of a folder are planned together. A trajectory is a chain of states; every state that any study wants
(the end of a stage, a branch point, an evaluation point) or that `results/` already holds is a place where a job may
end and another begin. None of this touches identities: those are made of the trajectory alone.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError
from tst_titan.files import digest_json
from tst_titan.plan.costs import Accelerator, flops_per_step
from tst_titan.plan.finished import Difference, Finished, differences, read_finished
from tst_titan.plan.settings import CorpusSettings, Recipe, Segment, Stage, family
from tst_titan.plan.trajectory import Recipes, evaluation_steps, run_stages
from tst_titan.study import LoadedStudy, RunDefinition, Study, catalogue, load_study
from tst_titan.study.yaml_file import StudySource


@dataclass(frozen=True)
class Run:
    """One run of a study, with its cost over all its steps (shared ones included).

    `segments`: ids along its path, the final one last. `evaluations`: ids of the states that are evaluated.
    """

    run: str
    arm: str
    model: str
    bag_size: int
    step_ratio: float
    superposition_steps: int
    bag_weighting: str
    superpose: str
    reinit_embeddings: bool
    steps: int
    seed: int
    learning_rate: float
    segments: tuple[str, ...]
    evaluations: tuple[str, ...]
    equivalent_tokens: int
    data_tokens: int
    flops: int
    gpu_hours: float

    @property
    def final(self) -> str:
        """Id of the segment that ends the run."""
        return self.segments[-1]


@dataclass(frozen=True)
class Plan:
    """What building one study takes.

    `segments` are in dependency order; those in `finished` lie in `results/` and need no job. A finished segment
    has the parent it was really trained from, or none where that one is gone. `differences` names segments to train
    whose near twin was trained under settings that no study wants any more. `data_tokens`: by corpus, the training
    tokens that its longest run reads. `validate_every`: steps between validations, 0 for at the end only.
    """

    study: str
    file: Path
    source: StudySource
    definition: Study
    runs: tuple[Run, ...]
    segments: dict[str, Segment]
    finished: frozenset[str]
    corpora: dict[str, CorpusSettings]
    data_tokens: dict[str, int]
    task_groups: dict[str, tuple[str, ...]]
    compare: tuple[str, ...]
    log_every: int
    validate_every: int
    validation_tokens: int
    differences: tuple[Difference, ...]
    flops_without_sharing: int
    flops_with_sharing: int

    @property
    def digests(self) -> dict[str, Any]:
        """What the study was when it was read: SHA-256 of all that it says, and of each file that it was read from."""
        files = [asdict(file) for file in self.source.files]
        return {"sha256": digest_json(self.source.data, length=64), "files": files}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task of every group."""
        return tuple(dict.fromkeys(task for tasks in self.task_groups.values() for task in tasks))

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Ids of the states that are evaluated, each once."""
        return tuple(dict.fromkeys(segment for run in self.runs for segment in run.evaluations))

    @property
    def final_segments(self) -> tuple[str, ...]:
        """Ids of the segments that end a run."""
        return tuple(run.final for run in self.runs)

    @property
    def new_segments(self) -> tuple[Segment, ...]:
        """The segments that are still to be trained."""
        return tuple(segment for id, segment in self.segments.items() if id not in self.finished)


def load_plan(
    study_file: Path,
    results: Path,
    *,
    accelerator: Accelerator | None = None,
    max_segment_steps: int | None = None,
) -> Plan:
    """Plan one study beside its neighbours in the same folder; its own mistakes are raised as `UserError`."""
    study_file = Path(study_file)
    if not study_file.is_file():
        raise UserError(f"{study_file}: no such study file")
    plans, errors = load_plans(
        study_file.parent, results, accelerator=accelerator, max_segment_steps=max_segment_steps
    )
    if study_file.stem in errors:
        raise errors[study_file.stem]
    if study_file.stem not in plans:
        raise UserError(f"{study_file}: a study file's name ends in .yaml")
    return plans[study_file.stem]


def load_plans(
    studies_dir: Path,
    results: Path,
    *,
    accelerator: Accelerator | None = None,
    max_segment_steps: int | None = None,
) -> tuple[dict[str, Plan], dict[str, UserError]]:
    """Plan every ``*.yaml`` of a folder, by name; a broken file, or a study that needs a damaged segment, lands in the second mapping
    and hurts no other."""
    studies: list[LoadedStudy] = []
    errors: dict[str, UserError] = {}
    for file in sorted(Path(studies_dir).glob("[!.]*.yaml")):
        try:
            studies.append(load_study(file))
        except UserError as error:
            errors[file.stem] = error
    plans, damaged = make_plans(
        studies, Path(results), accelerator=accelerator, max_segment_steps=max_segment_steps
    )
    return {plan.study: plan for plan in plans}, errors | damaged


def find_segment(plans: Mapping[str, Plan], segment_id: str, errors: Mapping[str, UserError]) -> Segment:
    """The segment of that id in any of ``plans``; `UserError` where none has it.

    ``errors``: what is wrong with the studies that could not be planned, one of which may want it.
    """
    for plan in plans.values():
        if segment_id in plan.segments:
            return plan.segments[segment_id]
    left_out = [f"study {name} is left out: {error}" for name, error in errors.items()]
    raise UserError(
        "\n".join(
            [
                f"segment {segment_id!r}: no study has it (`tst-titan plan NAME` lists a study's segments)",
                *left_out,
            ]
        )
    )


# A run, its recipe, its stages and the steps at which it is evaluated.
_Resolved = tuple[RunDefinition, Recipe, tuple[Stage, ...], tuple[int, ...]]


@dataclass
class _Chain:
    """The states that differ only in how far their last stage got."""

    recipe: Recipe
    before: tuple[Stage, ...]
    stage: Stage
    ends: set[int] = field(default_factory=set)
    in_order: list[int] = field(default_factory=list)

    def stages(self, end: int) -> tuple[Stage, ...]:
        stage = self.stage if self.stage.end_step == end else replace(self.stage, end_step=end)
        return (*self.before, stage)


class _Planner:
    """Chains of all studies, and the segments made from them (each once)."""

    def __init__(self, results: Path, max_segment_steps: int | None) -> None:
        self.results = results
        self.max_segment_steps = max_segment_steps
        self.recipes = Recipes()
        self.chains: dict[tuple, _Chain] = {}
        self.finished: dict[str, Finished] = {}
        self.damaged: dict[str, UserError] = {}
        self.made: dict[tuple[int, int], Segment] = {}

    def chain(self, recipe: Recipe, stages: tuple[Stage, ...]) -> _Chain:
        last = stages[-1]
        kind = (last.name, last.start_step, last.bag_size, last.bag_weighting, last.superpose)
        key = (id(recipe), stages[:-1], *kind, last.reinit_embeddings, last.decay_end_step, last.decay_to)
        if key not in self.chains:
            self.chains[key] = _Chain(recipe=recipe, before=stages[:-1], stage=last)
        return self.chains[key]

    def want(self, recipe: Recipe, stages: tuple[Stage, ...], steps: Iterable[int]) -> None:
        """Note the ends of all stages, and the states after ``steps``."""
        for index, stage in enumerate(stages):
            chain = self.chain(recipe, stages[: index + 1])
            chain.ends.add(stage.end_step)
            chain.ends.update(step for step in steps if stage.start_step < step <= stage.end_step)

    def read_results(self) -> None:
        """Find what is finished on any wanted trajectory, then fix the order of states on each."""
        families = {
            family(Segment(recipe=chain.recipe, stages=chain.stages(max(chain.ends))))
            for chain in self.chains.values()
        }
        self.finished, self.damaged = read_finished(self.results, sorted(families))
        for done in self.finished.values():
            if done.segment is not None:
                recipe = self.recipes.intern(done.segment.recipe)
                self.chain(recipe, done.segment.stages).ends.add(done.segment.end_step)
        for chain in self.chains.values():
            if self.max_segment_steps:
                chain.ends.update(range(chain.stage.start_step, max(chain.ends), self.max_segment_steps))
                chain.ends.discard(chain.stage.start_step)
            chain.in_order = sorted(chain.ends)

    def path(self, recipe: Recipe, stages: tuple[Stage, ...]) -> list[Segment]:
        """The jobs that lead to the end of ``stages``, in order."""
        path = [self.segment(recipe, stages)]
        while path[-1].parent is not None:
            parent = path[-1].parent
            done = self.finished.get(parent)
            if done is not None and done.segment is not None:
                before = done.segment.stages
            else:
                before = self.stages_before(recipe, path[-1].stages)
            path.append(self.segment(recipe, before))
        return path[::-1]

    def stages_before(self, recipe: Recipe, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """The nearest earlier state that has a name, as its stages; empty before the first step."""
        chain = self.chain(recipe, stages)
        place = bisect_left(chain.in_order, stages[-1].end_step)
        return chain.stages(chain.in_order[place - 1]) if place else stages[:-1]

    def segment(self, recipe: Recipe, stages: tuple[Stage, ...]) -> Segment:
        key = (id(self.chain(recipe, stages)), stages[-1].end_step)
        if key not in self.made:
            bare = Segment(recipe=recipe, stages=stages)
            self.made[key] = self._finished(bare) if bare.id in self.finished else self._new(bare)
        return self.made[key]

    def _finished(self, bare: Segment) -> Segment:
        done = self.finished[bare.id].segment
        if done is None:
            return bare
        return done if done.parent in self.finished else replace(done, parent=None)

    def _new(self, bare: Segment) -> Segment:
        before = self.stages_before(bare.recipe, bare.stages)
        if not before:
            return bare
        parent = self._identity(bare.recipe, before)
        segment = replace(bare, parent=parent, start_step=before[-1].end_step)
        # The identity knows no parent: what was computed for the bare trajectory holds.
        vars(segment)["id"] = bare.id
        return segment

    def _identity(self, recipe: Recipe, stages: tuple[Stage, ...]) -> str:
        key = (id(self.chain(recipe, stages)), stages[-1].end_step)
        return self.made[key].id if key in self.made else Segment(recipe=recipe, stages=stages).id


def make_plans(
    studies: Iterable[LoadedStudy],
    results: Path,
    *,
    accelerator: Accelerator | None = None,
    max_segment_steps: int | None = None,
) -> tuple[list[Plan], dict[str, UserError]]:
    """Plan ``studies`` together. ``max_segment_steps`` splits longer jobs; no identity depends on it.

    Returns the plans, and by study's name what is wrong with a finished segment that it needs.
    """
    planner = _Planner(results, max_segment_steps)
    accelerator = accelerator or Accelerator()
    resolved: list[tuple[LoadedStudy, list[_Resolved]]] = []
    for study in studies:
        evaluate = study.definition.evaluate
        own = []
        for run in study.runs:
            recipe, stages = planner.recipes.of(run), run_stages(run)
            points = evaluation_steps(evaluate.at, run.steps) if evaluate.tasks else ()
            planner.want(recipe, stages, points)
            own.append((run, recipe, stages, points))
        resolved.append((study, own))
    planner.read_results()
    plans = [_plan(planner, study, own, accelerator) for study, own in resolved]
    wanted = {id for plan in plans for id in plan.segments}
    orphans = [done for id, done in planner.finished.items() if id not in wanted]
    damaged = {
        plan.study: error for plan in plans for id, error in planner.damaged.items() if id in plan.segments
    }
    whole = [plan for plan in plans if plan.study not in damaged]
    return [replace(plan, differences=differences(plan.new_segments, orphans)) for plan in whole], damaged


def _plan(
    planner: _Planner,
    study: LoadedStudy,
    resolved: list[_Resolved],
    accelerator: Accelerator,
) -> Plan:
    runs: list[Run] = []
    segments: dict[str, Segment] = {}
    data_tokens: dict[str, int] = {}
    corpora: dict[str, CorpusSettings] = {}
    # Steps trained once, however many runs pass them: by chain, from the stage's start to the furthest end.
    furthest: dict[int, tuple[int, int]] = {}
    for run, recipe, stages, points in resolved:
        path = planner.path(recipe, stages)
        evaluations = []
        for step in points:
            state = _state_at(stages, step)
            evaluated = planner.segment(recipe, state)
            if evaluated.id not in segments:
                segments.update((segment.id, segment) for segment in planner.path(recipe, state))
            evaluations.append(evaluated.id)
        segments.update((segment.id, segment) for segment in path)
        flops = flops_per_step(recipe)
        for index, stage in enumerate(stages):
            key = id(planner.chain(recipe, stages[: index + 1]))
            cost = (stage.end_step - stage.start_step) * flops
            furthest[key] = max(furthest.get(key, (0, 0)), (stage.end_step, cost))
        final = path[-1]
        corpora[recipe.corpus.id] = recipe.corpus
        data_tokens[recipe.corpus.id] = max(data_tokens.get(recipe.corpus.id, 0), final.data_tokens)
        runs.append(
            Run(
                run=run.name,
                arm=run.arm,
                model=run.model,
                bag_size=run.bag_size,
                step_ratio=run.step_ratio,
                superposition_steps=run.superposition_steps,
                bag_weighting=run.bag_weighting,
                superpose=run.superpose,
                reinit_embeddings=run.reinit_embeddings,
                steps=run.steps,
                seed=run.seed,
                learning_rate=recipe.learning_rate,
                segments=tuple(segment.id for segment in path),
                evaluations=tuple(evaluations),
                equivalent_tokens=final.equivalent_tokens,
                data_tokens=final.data_tokens,
                flops=run.steps * flops,
                gpu_hours=accelerator.hours(run.steps * flops),
            )
        )
    definition = study.definition
    return Plan(
        study=study.name,
        file=study.file,
        source=study.source,
        definition=definition,
        runs=tuple(runs),
        segments=segments,
        finished=frozenset(id for id in segments if id in planner.finished),
        corpora=corpora,
        data_tokens=data_tokens,
        task_groups={
            task: catalogue.TASK_GROUPS.get(task, (task,)) for task in definition.evaluate.tasks or ()
        },
        compare=definition.compare,
        log_every=definition.log_every,
        validate_every=definition.validation.every or 0,
        validation_tokens=definition.validation.tokens
        or min(corpus.validation_tokens for corpus in corpora.values()),
        differences=(),
        flops_without_sharing=sum(run.flops for run in runs),
        flops_with_sharing=sum(cost for _, cost in furthest.values()),
    )


def _state_at(stages: tuple[Stage, ...], step: int) -> tuple[Stage, ...]:
    """The trajectory ``stages`` cut off after ``step``."""
    cut = [stage for stage in stages if stage.start_step < step]
    return (*cut[:-1], cut[-1] if cut[-1].end_step <= step else replace(cut[-1], end_step=step))
