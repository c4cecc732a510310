# Evaluations: one job a checkpoint and task group.


rule evaluate:
    input:
        done=RESULTS / "segments/{segment}/done.json",
        corpus=lambda wildcards: RESULTS / "data" / segment_of(wildcards.segment).recipe.corpus.id / "corpus.json",
    output:
        RESULTS / "evaluations/{segment}/{group}.json",
    log:
        "logs/evaluations/{segment}/{group}.log",
    resources:
        mem_mb=lambda wildcards: checkpoint_memory_mb(segment_of(wildcards.segment), SITE),
        **checkpoint_resources(SITE, gpus=1, minutes=240),
    message:
        "Evaluate {wildcards.segment} on {wildcards.group}"
    shell:
        "{TST_TITAN} evaluate {wildcards.segment} --tasks {wildcards.group} --results {RESULTS} > {log} 2>&1"
