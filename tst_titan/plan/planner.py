"""Definition -> runs -> segments: which jobs there are, and what each study needs of them.

All studies of a folder are planned together, so that each picks up what others train (`tst_titan.plan.chains`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError
from tst_titan.files import digest_json
from tst_titan.plan.chains import Chains
from tst_titan.plan.costs import Accelerator, flops_per_step
from tst_titan.plan.finished import Difference, differences
from tst_titan.plan.settings import CorpusSettings, Recipe, Segment, Stage
from tst_titan.plan.states import lost_start, trained_again
from tst_titan.plan.trajectory import run_stages
from tst_titan.study import LoadedStudy, RunDefinition, Study, catalogue, load_study
from tst_titan.study.yaml_file import StudySource


@dataclass(frozen=True)
class Run:
    """One run of a study, with its cost over all its steps (shared ones included).

    `training`: every field of the recipe. `own_fields`: those of it, and of superposition, that the arm sets itself.
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
    training: dict[str, Any]
    own_fields: tuple[str, ...]
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

    `segments` are in dependency order; those in `finished` lie in `results/` and need no job, but for those `again`:
    their checkpoint was pruned, and something still to be done starts from it. A finished segment
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
    again: frozenset[str]
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
    def new_segments(self) -> tuple[Segment, ...]:
        """The segments that are still to be trained, or to be trained again."""
        return tuple(segment for id, segment in self.segments.items() if id not in self.finished or id in self.again)


def load_plan(study_file: Path, results: Path) -> Plan:
    """Plan one study beside its neighbours in the same folder; its own mistakes are raised as `UserError`."""
    study_file = Path(study_file)
    if not study_file.is_file():
        raise UserError("no such study file", where=study_file)
    plans, errors = load_plans(study_file.parent, results)
    if study_file.stem in errors:
        raise errors[study_file.stem]
    if study_file.stem not in plans:
        raise UserError("a study file's name ends in .yaml", where=study_file)
    return plans[study_file.stem]


def load_plans(
    studies_dir: Path,
    results: Path,
    *,
    accelerator: Accelerator | None = None,
    max_segment_steps: int | None = None,
) -> tuple[dict[str, Plan], dict[str, UserError]]:
    """Plan every ``*.yaml`` of a folder, by name; a broken file, or a study that needs a damaged segment, lands in the
    second mapping and hurts no other."""
    studies: list[LoadedStudy] = []
    errors: dict[str, UserError] = {}
    for file in sorted(Path(studies_dir).glob("[!.]*.yaml")):
        try:
            studies.append(load_study(file))
        except UserError as error:
            errors[file.stem] = error
    plans, damaged = make_plans(studies, Path(results), accelerator=accelerator, max_segment_steps=max_segment_steps)
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


@dataclass(frozen=True)
class _Trajectory:
    """A run of a study as a trajectory, and the steps at which it is evaluated."""

    run: RunDefinition
    recipe: Recipe
    stages: tuple[Stage, ...]
    evaluated: tuple[int, ...]


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
    chains = Chains(results, max_segment_steps)
    studies = list(studies)
    trajectories = [_trajectories(chains, study) for study in studies]
    chains.read_results()
    accelerator = accelerator or Accelerator()
    plans = [_plan(chains, study, runs, accelerator) for study, runs in zip(studies, trajectories, strict=True)]
    planned = {id for plan in plans for id in plan.segments}
    orphans = [done for id, done in chains.finished.items() if id not in planned]
    damaged = {plan.study: error for plan in plans for id, error in chains.damaged.items() if id in plan.segments}
    damaged |= {
        plan.study: error for plan in plans if (error := lost_start(plan.segments, plan.again, results)) is not None
    }
    usable = [plan for plan in plans if plan.study not in damaged]
    return [replace(plan, differences=differences(plan.new_segments, orphans)) for plan in usable], damaged


def _trajectories(chains: Chains, study: LoadedStudy) -> list[_Trajectory]:
    """The trajectories of a study's runs; their states are noted in ``chains``."""
    evaluate = study.definition.evaluate
    trajectories = []
    for run in study.runs:
        recipe, stages = chains.recipes.of(run), run_stages(run)
        evaluated = evaluate.at.of_run(run.steps) if evaluate.tasks else ()
        chains.want(recipe, stages, evaluated)
        trajectories.append(_Trajectory(run, recipe, stages, evaluated))
    return trajectories


def _plan(chains: Chains, study: LoadedStudy, trajectories: list[_Trajectory], accelerator: Accelerator) -> Plan:
    segments: dict[str, Segment] = {}
    runs = tuple(_plan_run(chains, item, segments, accelerator) for item in trajectories)
    corpora = {item.recipe.corpus.id: item.recipe.corpus for item in trajectories}
    data_tokens = dict.fromkeys(corpora, 0)
    for item, run in zip(trajectories, runs, strict=True):
        corpus = item.recipe.corpus.id
        data_tokens[corpus] = max(data_tokens[corpus], run.data_tokens)
    definition = study.definition
    finished = frozenset(id for id in segments if id in chains.finished)
    evaluations = {state for run in runs for state in run.evaluations}
    groups = definition.evaluate.tasks or ()
    return Plan(
        study=study.name,
        file=study.file,
        source=study.source,
        definition=definition,
        runs=runs,
        segments=segments,
        finished=finished,
        again=trained_again(chains.results, segments, finished, evaluations, groups),
        corpora=corpora,
        data_tokens=data_tokens,
        task_groups={task: catalogue.TASK_GROUPS.get(task, (task,)) for task in groups},
        compare=definition.compare,
        log_every=definition.log_every,
        validate_every=definition.validation.every or 0,
        validation_tokens=definition.validation.tokens or min(corpus.validation_tokens for corpus in corpora.values()),
        differences=(),
        flops_without_sharing=sum(run.flops for run in runs),
        flops_with_sharing=_flops_with_sharing(chains, trajectories),
    )


def _plan_run(chains: Chains, trajectory: _Trajectory, segments: dict[str, Segment], accelerator: Accelerator) -> Run:
    """One run of the plan; the segments that it needs are added to ``segments``."""
    run, recipe, stages = trajectory.run, trajectory.recipe, trajectory.stages
    evaluations = []
    for step in trajectory.evaluated:
        state = _state_at(stages, step)
        evaluated = chains.segment(recipe, state)
        if evaluated.id not in segments:
            segments.update((segment.id, segment) for segment in chains.path(recipe, state))
        evaluations.append(evaluated.id)
    path = chains.path(recipe, stages)
    segments.update((segment.id, segment) for segment in path)
    flops = run.steps * flops_per_step(recipe)
    return Run(
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
        training=run.training,
        own_fields=run.own_fields,
        segments=tuple(segment.id for segment in path),
        evaluations=tuple(evaluations),
        equivalent_tokens=path[-1].equivalent_tokens,
        data_tokens=path[-1].data_tokens,
        flops=flops,
        gpu_hours=accelerator.hours(flops),
    )


def _flops_with_sharing(chains: Chains, trajectories: Iterable[_Trajectory]) -> int:
    """Training FLOPs where each step is taken once, however many runs pass it: of each chain its furthest end
    counts."""
    furthest: dict[int, int] = {}
    for item in trajectories:
        flops = flops_per_step(item.recipe)
        for index, stage in enumerate(item.stages):
            chain = id(chains.chain(item.recipe, item.stages[: index + 1]))
            furthest[chain] = max(furthest.get(chain, 0), (stage.end_step - stage.start_step) * flops)
    return sum(furthest.values())


def _state_at(stages: tuple[Stage, ...], step: int) -> tuple[Stage, ...]:
    """The trajectory ``stages`` cut off after ``step``."""
    cut = [stage for stage in stages if stage.start_step < step]
    return (*cut[:-1], cut[-1] if cut[-1].end_step <= step else replace(cut[-1], end_step=step))
