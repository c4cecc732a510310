# Segments: each is trained once, from its parent's checkpoint, whichever studies want it.


rule train:
    input:
        unpack(TITAN.training_inputs),
    output:
        # Snakemake deletes outputs before a job: not what another job has finished meanwhile.
        update(RESULTS.segment("{segment}").done),
    threads: TITAN.training_threads
    resources:
        **TITAN.training_resources,
    message:
        "Train {wildcards.segment}"
    shell:
        "{TST_TITAN} train {wildcards.segment:q} --studies {STUDIES:q} --results {RESULTS.root:q} {TITAN.split:q}"
        " --hardware {TITAN.hardware:q} --accelerator {TITAN.site.accelerator:q}"
        " --utilization {TITAN.site.utilization} {TITAN.gpu_memory:q}"


rule restore:
    # A finished segment whose checkpoint was pruned, where a state is needed that starts from it.
    input:
        unpack(TITAN.restoring_inputs),
    output:
        touch(RESULTS.segment("{segment}").restored),
    threads: TITAN.training_threads
    resources:
        **TITAN.training_resources,
    message:
        "Train {wildcards.segment} again, whose checkpoint was pruned"
    shell:
        "{TST_TITAN} train {wildcards.segment:q} --restore --studies {STUDIES:q} --results {RESULTS.root:q} {TITAN.split:q}"
        " --hardware {TITAN.hardware:q} --accelerator {TITAN.site.accelerator:q}"
        " --utilization {TITAN.site.utilization} {TITAN.gpu_memory:q}"


rule export:
    input:
        unpack(TITAN.export_inputs),
    output:
        directory(RESULTS.export("{segment}")),
    log:
        LOGS.export("{segment}"),
    resources:
        **TITAN.export_resources,
    message:
        "Export {wildcards.segment}"
    shell:
        "{TST_TITAN} export {wildcards.segment:q} --results {RESULTS.root:q} --out {output:q} > {log:q} 2>&1"
