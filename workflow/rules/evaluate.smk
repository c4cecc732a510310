# Evaluations: one job a checkpoint and task group.

from tst_titan.evaluate.task_files import definitions_state

# Of one evaluation.
PROCESSES = CONFIGURATION.evaluation.processes
TRUST = ["--trust-tasks"] if CONFIGURATION.evaluation.trust_tasks else []


def own_definitions(wildcards):
    """What changes with the user's definitions and data that a group is made of. Where there are none it is nothing that
    Snakemake records or compares (of no type that it knows): the suites' evaluations depend on their checkpoint alone."""
    return definitions_state(wildcards.group, USER_TASKS) or ...


rule evaluate:
    input:
        done=RESULTS / "segments/{segment}/done.json",
        corpus=lambda wildcards: RESULTS / "data" / segment_of(wildcards.segment).recipe.corpus.id / "corpus.json",
    output:
        RESULTS / "evaluations/{segment}/{group}.json",
    log:
        "logs/evaluations/{segment}/{group}.log",
    params:
        # The command itself finds out what of the group is stale.
        definitions=own_definitions,
    threads: PROCESSES
    resources:
        mem_mb=lambda wildcards: checkpoint_memory_mb(
            segment_of(wildcards.segment), SITE, gpus=PROCESSES
        ),
        in_turn=1,
        **checkpoint_resources(SITE, gpus=PROCESSES, minutes=240),
    message:
        "Evaluate {wildcards.segment} on {wildcards.group}"
    shell:
        "{TST_TITAN} evaluate {wildcards.segment:q} --tasks {wildcards.group:q} --results {RESULTS:q}"
        " --task-definitions {USER_TASKS:q} --processes {PROCESSES:q} {TRUST:q} > {log:q} 2>&1"


rule fetch_eval_data:
    # The data of every task that a study names, into the Hugging Face cache (HF_HOME): run it where there is a network,
    # for nodes that have none. It has no output: what is in the cache already is not downloaded again.
    params:
        tasks=sorted({group for plan in PLANS.values() for group in plan.task_groups}) or ["offline"],
    localrule: True
    message:
        "Fetch the data of {params.tasks}"
    shell:
        "{TST_TITAN} fetch-eval-data --tasks {params.tasks:q} --task-definitions {USER_TASKS:q} {TRUST:q}"
