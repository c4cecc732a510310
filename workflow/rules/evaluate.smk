# Evaluations: one job a checkpoint and task group.


rule evaluate:
    input:
        unpack(TITAN.evaluation_inputs),
    output:
        RESULTS.evaluation("{segment}", "{group}"),
    log:
        LOGS.evaluation("{segment}", "{group}"),
    threads: TITAN.evaluation_processes
    resources:
        **TITAN.evaluation_resources,
    params:
        # The command itself finds out what of the group is stale.
        definitions=TITAN.own_definitions,
    message:
        "Evaluate {wildcards.segment} on {wildcards.group}"
    shell:
        "{TST_TITAN} evaluate {wildcards.segment:q} --tasks {wildcards.group:q} --results {RESULTS.root:q}"
        " --task-definitions {TITAN.user_tasks:q} --processes {TITAN.evaluation_processes} {TITAN.trust:q} > {log:q} 2>&1"


rule fetch_eval_data:
    localrule: True
    # The data of every task that a study names, into the Hugging Face cache (HF_HOME): run it where there is a network,
    # for nodes that have none. It has no output: what is in the cache already is not downloaded again.
    params:
        tasks=TITAN.task_groups,
    message:
        "Fetch the data of {params.tasks}"
    shell:
        "{TST_TITAN} fetch-eval-data --tasks {params.tasks:q} --task-definitions {TITAN.user_tasks:q} {TITAN.trust:q}"
