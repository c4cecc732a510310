"""The jobs of many trajectories together: every state that is wanted, or that `results/` holds, is a place where one
job may end and another begin.

None of this touches identities: those are made of the trajectory alone.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tst_titan.errors import UserError
from tst_titan.plan.finished import Finished, read_finished
from tst_titan.plan.settings import Recipe, Segment, Stage, family
from tst_titan.plan.trajectory import Recipes


@dataclass
class _Chain:
    """The states that differ only in how far their last stage got: `stage`, begun and not a step further."""

    recipe: Recipe
    before: tuple[Stage, ...]
    stage: Stage
    ends: set[int] = field(default_factory=set)
    in_order: list[int] = field(default_factory=list)

    def stages(self, end: int) -> tuple[Stage, ...]:
        return (*self.before, replace(self.stage, end_step=end))


class Chains:
    """Chains of all studies, and the segments made from them (each once)."""

    def __init__(self, results: Path, max_segment_steps: int | None) -> None:
        self.results = results
        self.max_segment_steps = max_segment_steps
        self.recipes = Recipes()
        self.chains: dict[tuple[int, tuple[Stage, ...], Stage], _Chain] = {}
        self.finished: dict[str, Finished] = {}
        self.damaged: dict[str, UserError] = {}
        self.made: dict[tuple[int, int], Segment] = {}

    def chain(self, recipe: Recipe, stages: tuple[Stage, ...]) -> _Chain:
        key = (id(recipe), stages[:-1], stages[-1].begun)
        if key not in self.chains:
            self.chains[key] = _Chain(recipe=recipe, before=stages[:-1], stage=stages[-1].begun)
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
            family(Segment(recipe=chain.recipe, stages=chain.stages(max(chain.ends)))) for chain in self.chains.values()
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
        """The job that ends with ``stages``; a finished one as it was trained."""
        key = (id(self.chain(recipe, stages)), stages[-1].end_step)
        if key not in self.made:
            new = self._new(recipe, stages)
            done = self.finished.get(new.id)
            self.made[key] = new if done is None else self._finished(done, new)
        return self.made[key]

    def _new(self, recipe: Recipe, stages: tuple[Stage, ...]) -> Segment:
        before = self.stages_before(recipe, stages)
        if not before:
            return Segment(recipe=recipe, stages=stages)
        parent = self._identity(recipe, before)
        return Segment(recipe=recipe, stages=stages, parent=parent, start_step=before[-1].end_step)

    def _finished(self, done: Finished, new: Segment) -> Segment:
        if done.segment is None:
            return replace(new, parent=None, start_step=0)
        return done.segment if done.segment.parent in self.finished else replace(done.segment, parent=None)

    def _identity(self, recipe: Recipe, stages: tuple[Stage, ...]) -> str:
        key = (id(self.chain(recipe, stages)), stages[-1].end_step)
        return self.made[key].id if key in self.made else Segment(recipe=recipe, stages=stages).id
