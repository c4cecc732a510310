# Segments: each is trained once, from its parent's checkpoint, whichever studies want it.


def training_inputs(wildcards):
    """The corpus and the parent. A finished segment needs neither: nothing that is made later retrains it."""
    if (RESULTS / "segments" / wildcards.segment / "done.json").exists():
        return {}
    segment = segment_of(wildcards.segment)
    inputs = {"corpus": corpus_of(segment)}
    if segment.parent:
        inputs["parent"] = RESULTS / "segments" / segment.parent / "done.json"
    return inputs


def of_job(value):
    """What a training job asks for: `value(segment, hardware)`, with the hardware of the segment's model."""

    def asked(wildcards):
        segment = segment_of(wildcards.segment)
        return value(segment, hardware_of(HARDWARE, segment.recipe.model.name))

    return asked


rule train:
    input:
        unpack(training_inputs),
    output:
        # Snakemake deletes outputs before a job: not what another job has finished meanwhile.
        update(RESULTS / "segments/{segment}/done.json"),
    threads: of_job(lambda segment, hardware: hardware.processes * hardware.threads)
    resources:
        mem_mb=of_job(lambda segment, hardware: training_memory_mb(segment, hardware, SITE)),
        runtime=of_job(lambda segment, hardware: training_minutes(segment, hardware, SITE)),
        # Which there are depends on the site alone.
        **{
            name: of_job(lambda segment, hardware, name=name: training_resources(hardware, SITE)[name])
            for name in training_resources(Hardware(), SITE)
        },
    message:
        "Train {wildcards.segment}"
    shell:
        "{TST_TITAN} train {wildcards.segment:q} --studies {STUDIES:q} --results {RESULTS:q} {SPLIT:q}"
        " --hardware {HARDWARE_TEXT:q} --accelerator {SITE.accelerator:q}"
        " --utilization {SITE.utilization} {GPU_MEMORY:q}"


rule export:
    input:
        RESULTS / "segments/{segment}/done.json",
    output:
        directory(RESULTS / "exports/{segment}"),
    log:
        "logs/exports/{segment}.log",
    resources:
        mem_mb=lambda wildcards: checkpoint_memory_mb(segment_of(wildcards.segment), SITE, gpus=0),
        in_turn=1,
        **checkpoint_resources(SITE, gpus=0, minutes=60),
    message:
        "Export {wildcards.segment}"
    shell:
        "{TST_TITAN} export {wildcards.segment:q} --results {RESULTS:q} --out {output:q} > {log:q} 2>&1"
