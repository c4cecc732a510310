"""What the Snakefile asks: the plans, and the inputs, resources and commands' words of every rule. It knows no
Snakemake.

The rules are Snakemake's: it calls the methods of `Workflow` with a job's wildcards. What is wrong for a user's sake
ends the run with one message, wherever it is found: as the Snakefile is read, as the jobs are looked for, or before the
first one starts.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tst_titan.before_jobs import (
    Job,
    check_evaluation_data,
    check_slurm,
    one_message,
    planned,
    refuse_changed_inputs,
)
from tst_titan.cluster.resources import checkpoint_memory_mb, checkpoint_resources, corpus_resources
from tst_titan.cluster.site import Site, gpu_memory_gib, job_prologue
from tst_titan.configuration import Configuration, check_models, read_configuration, site_file, sources_of
from tst_titan.data.needed import corpus_or_growth, corpus_shares, recorded_weights, tokens_needed
from tst_titan.errors import UserError
from tst_titan.evaluate.task_files import definitions_state
from tst_titan.plan import Plan, Segment, load_plans
from tst_titan.pruned import is_pruned
from tst_titan.published import STUDY_NAME as PUBLISHED
from tst_titan.results import CorpusFiles, Logs, Results
from tst_titan.study.catalogue import MODELS
from tst_titan.train.hardware import Hardware
from tst_titan.train.hardware_section import hardware_of
from tst_titan.train.resources import (
    check_training,
    training_memory_mb,
    training_minutes,
    training_resources,
)

# Minutes of jobs whose time no plan knows.
EVALUATION_MINUTES, EXPORT_MINUTES = 240, 60
# Where neither --cores nor the machine says how many threads tokenize a corpus.
MOST_THREADS = 16

# An attribute for each wildcard of the rule.
Wildcards = Any


@one_message
def site_file_of_user() -> Path | None:
    """The site's own file, over what the workflow comes with; None where there is none."""
    return site_file()


@one_message
def read_workflow(
    site: Path | None, more_files: Iterable[Path] = (), command_line: Mapping[str, Any] | None = None
) -> "Workflow":
    """The workflow of a configuration: site file, `--configfile`, `--config`, each by itself to say where a mistake
    stands.

    Raises `UserError` for a wrong configuration. A study that cannot be planned is no error before it is asked for.
    """
    sources = sources_of(site, more_files, command_line)
    configuration = read_configuration(sources)
    plans, broken = load_plans(
        configuration.studies, configuration.results, max_segment_steps=configuration.max_segment_steps
    )
    workflow = Workflow(configuration, plans, broken)
    if not broken:  # a study that cannot be read may have a model of that name
        known = (segment.recipe.model.name for segment in workflow.segments.values())
        check_models(sources, [*MODELS, *known])
    if PUBLISHED in {*plans, *broken}:
        folder = configuration.studies / PUBLISHED
        raise UserError(f"{folder}.yaml: the target {folder} is the paper's own numbers; rename the file")
    return workflow


@dataclass(frozen=True)
class Workflow:
    """All studies of a checkout: `plans` by name, and what is wrong with the `broken` ones."""

    configuration: Configuration
    plans: Mapping[str, Plan]
    broken: Mapping[str, UserError]
    _compared: set[str] = field(default_factory=set)
    """Corpora whose sources were compared with what they were made of, in this run."""

    @property
    def studies(self) -> Path:
        return self.configuration.studies

    @property
    def site(self) -> Site:
        return self.configuration.site

    @property
    def results(self) -> Results:
        return Results(self.configuration.results)

    @property
    def logs(self) -> Logs:
        return Logs()

    @cached_property
    def segments(self) -> dict[str, Segment]:
        return {name: segment for plan in self.plans.values() for name, segment in plan.segments.items()}

    def segment(self, wildcards: Wildcards) -> Segment:
        """The segment of a job; `UserError` where no study has one of that name."""
        if wildcards.segment not in self.segments:
            raise UserError(
                f"no study in {self.studies} has this segment; `tst-titan plan STUDY` lists them",
                where=wildcards.segment,
            )
        return self.segments[wildcards.segment]

    # Words of commands. What is no text of the user's is a list, so that what is not given leaves nothing behind.

    @property
    def command(self) -> str:
        """The package's command, its words quoted."""
        return f"{shlex.quote(sys.executable)} -m tst_titan.cli"

    @property
    def prologue(self) -> str:
        """Shell lines before each job's command, wherever it runs, as Snakemake formats them."""
        return job_prologue(self.site).replace("{", "{{").replace("}", "}}")

    @property
    def user_tasks(self) -> Path:
        """Task definitions of the user's own, in lm-eval's format."""
        return self.studies / "tasks"

    @property
    def hardware(self) -> str:
        """The section `hardware`. In a command and never in `params`: another machine is no reason to train again."""
        return json.dumps(self.configuration.hardware)

    @property
    def split(self) -> list[str]:
        steps = self.configuration.max_segment_steps
        return ["--max-segment-steps", str(steps)] if steps else []

    @property
    def gpu_memory(self) -> list[str]:
        """What a GPU holds, where the site says; else each job asks the machine that it came to."""
        memory = gpu_memory_gib(self.site)
        return ["--gpu-memory-gib", f"{memory:g}"] if memory else []

    @property
    def trust(self) -> list[str]:
        return ["--trust-tasks"] if self.configuration.evaluation.trust_tasks else []

    # Corpora.

    @property
    def corpora_are_local(self) -> bool:
        """Corpora are made where the network is: by the machine that runs Snakemake, unless the site gives them
        jobs."""
        return not self.site.corpus_minutes

    def tokenizing_threads(self, cores: int | None) -> int:
        """At most: `cores` that are allowed, or the machine has."""
        return cores or min(MOST_THREADS, (os.cpu_count() or 1) if self.corpora_are_local else MOST_THREADS)

    @property
    def corpus_resources(self) -> dict[str, Any]:
        return {"tmpdir": self.downloads, **corpus_resources(self.site)}

    @cached_property
    def _tokens_needed(self) -> dict[str, dict[str, int]]:
        corpora = {identity for plan in self.plans.values() for identity in plan.corpora}
        return tokens_needed(self.plans.values(), recorded_weights(corpora, self.results))

    def downloads(self, wildcards: Wildcards) -> str:
        """Where a job's downloads lie until they are read: beside the corpus, as 16 files of 2 GB fill a node's
        /tmp."""
        return str(self.results.corpus(wildcards.corpus).downloads.absolute())

    def corpus_parts(self, wildcards: Wildcards) -> list[Path]:
        """The shares of a corpus's files that are jobs of their own; none where one job does it all or did it."""
        identity, files = wildcards.corpus, self.results.corpus(wildcards.corpus)
        if files.manifest.exists():  # also of no study any more
            return []
        settings = next(plan.corpora[identity] for plan in self.plans.values() if identity in plan.corpora)
        data = self.configuration.data
        return corpus_shares(settings, files, self._tokens_needed[identity], data.tokens_per_job, data.most_jobs)

    def _corpus_files(self, segment: Segment) -> CorpusFiles:
        return self.results.corpus(segment.recipe.corpus.id)

    # Segments.

    @one_message
    def training_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        """The corpus and the parent. A finished segment needs neither: nothing that is made later retrains it."""
        if self.results.segment(wildcards.segment).done.exists():
            return {}
        return self.restoring_inputs(wildcards)

    @one_message
    def restoring_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        """The corpus and the parent, of a segment that is trained, or trained again."""
        segment = self.segment(wildcards)
        needed = self._tokens_needed[segment.recipe.corpus.id]
        inputs = {"corpus": corpus_or_growth(self._corpus_files(segment), needed)}
        if segment.parent:
            inputs["parent"] = self._state_of(segment.parent)
        return inputs

    def _state_of(self, segment: str) -> Path:
        """What stands for the state that a segment ended with: where its checkpoint was pruned, the mark that it is
        there again."""
        files = self.results.segment(segment)
        pruned = segment in self.segments and is_pruned(files, self.segments[segment].end_step)
        return files.restored if pruned else files.done

    def _to_read(self, segment: str, output: Path) -> Path:
        """What is needed of a segment for an `output` that is made of its checkpoint; once that is there, no
        checkpoint."""
        return self.results.segment(segment).done if output.exists() else self._state_of(segment)

    def _training_job(self, value: Callable[[Segment, Hardware], Any]) -> Callable[[Wildcards], Any]:
        """What a training job asks for: `value` of its segment and the hardware of the segment's model."""

        @one_message
        def asked(wildcards: Wildcards) -> Any:
            segment = self.segment(wildcards)
            return value(segment, hardware_of(self.configuration.hardware, segment.recipe.model.name))

        return asked

    @property
    def training_threads(self) -> Callable[[Wildcards], int]:
        return self._training_job(lambda segment, hardware: hardware.processes * hardware.threads)

    @property
    def training_resources(self) -> dict[str, Callable[[Wildcards], Any]]:
        """By resource, what a job asks for; which resources there are depends on the site alone."""
        site = self.site

        def named(name: str) -> Callable[[Wildcards], Any]:
            return self._training_job(lambda segment, hardware: training_resources(hardware, site)[name])

        return {
            "mem_mb": self._training_job(lambda segment, hardware: training_memory_mb(segment, hardware, site)),
            "runtime": self._training_job(lambda segment, hardware: training_minutes(segment, hardware, site)),
            **{name: named(name) for name in training_resources(Hardware(), site)},
        }

    # What reads a whole checkpoint.

    def _checkpoint_resources(self, *, gpus: int, minutes: int) -> dict[str, Any]:
        @one_message
        def memory(wildcards: Wildcards) -> int:
            return checkpoint_memory_mb(self.segment(wildcards), self.site, gpus=gpus)

        resources = checkpoint_resources(self.site, gpus=gpus, minutes=minutes)
        return {"mem_mb": memory, "in_turn": 1, **resources}

    @property
    def export_resources(self) -> dict[str, Any]:
        return self._checkpoint_resources(gpus=0, minutes=EXPORT_MINUTES)

    @property
    def evaluation_resources(self) -> dict[str, Any]:
        return self._checkpoint_resources(gpus=self.evaluation_processes, minutes=EVALUATION_MINUTES)

    @property
    def evaluation_processes(self) -> int:
        """Of one evaluation."""
        return self.configuration.evaluation.processes

    @one_message
    def evaluation_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        """The finished segment, and the corpus, whose tokenizer and held-out text are needed."""
        return {
            "done": self._to_read(wildcards.segment, self.results.evaluation(wildcards.segment, wildcards.group)),
            "corpus": self._corpus_files(self.segment(wildcards)).manifest,
        }

    @one_message
    def export_inputs(self, wildcards: Wildcards) -> dict[str, Path]:
        """The finished segment."""
        return {"done": self._to_read(wildcards.segment, self.results.export(wildcards.segment))}

    @one_message
    def own_definitions(self, wildcards: Wildcards) -> Any:
        """What changes with the user's definitions and data that a group is made of. Where there are none it is nothing
        that Snakemake records or compares (of no type that it knows): the suites' evaluations depend on their
        checkpoint alone."""
        return definitions_state(wildcards.group, self.user_tasks) or ...

    @property
    def task_groups(self) -> list[str]:
        """Those that the studies name, whose data are fetched."""
        return sorted({group for plan in self.plans.values() for group in plan.task_groups}) or ["offline"]

    # Studies.

    @one_message
    def study_inputs(self, wildcards: Wildcards) -> dict[str, list[Path]]:
        """Finished segments and evaluations of a study. One that cannot be planned or trained here ends the run before
        any job."""
        plan = planned(wildcards.study, self.plans, self.broken, self.studies)
        missing = plan.new_segments
        for note in check_training(missing, self.configuration.hardware, self.site):
            print(f"hardware: {note}", file=sys.stderr)
        refuse_changed_inputs(missing, self._compared, self.results)
        return {
            "segments": [self.results.segment(name).done for name in plan.segments],
            "evaluations": [
                self.results.evaluation(segment, group) for segment in plan.evaluations for group in plan.task_groups
            ],
        }

    def definition(self, wildcards: Wildcards) -> str:
        """Another definition gives another report; comments in it do not."""
        return self.plans[wildcards.study].definition.model_dump_json()

    # Before the first job.

    @one_message
    def check_jobs(self, jobs: Sequence[Job], *, slurm: bool, executor_settings: Any) -> None:
        """With the jobs and their resources known, and none started: what Slurm would refuse, or let wait for ever, and
        what evaluations would not find when all training is done."""
        # Of targets that are no study, too.
        trained = [self.segment(job.wildcards) for job in jobs if job.rule.name in ("train", "restore")]
        refuse_changed_inputs(trained, self._compared, self.results)
        if slurm:
            submitted = [job for job in jobs if not job.is_local]
            check_slurm(submitted, [Path.cwd(), self.results.root], executor_settings)
        if not any(job.rule.name == "fetch_eval_data" for job in jobs):
            wildcards = [job.wildcards for job in jobs if job.rule.name == "evaluate"]
            check_evaluation_data(
                [(each.group, self.segment(each).recipe.seq_len) for each in wildcards],
                command=job_prologue(self.site) + self.command,
                options=["--task-definitions", str(self.user_tasks), *self.trust],
            )
