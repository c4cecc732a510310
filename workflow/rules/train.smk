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


rule train:
    input:
        unpack(training_inputs),
    output:
        RESULTS / "segments/{segment}/done.json",
    threads: int(HARDWARE["processes"]) * int(HARDWARE["threads"])
    message:
        "Train {wildcards.segment}"
    shell:
        "{TST_TITAN} train {wildcards.segment} --studies {STUDIES} --results {RESULTS} {SPLIT}"
        " --hardware {HARDWARE_SETTINGS}"


rule export:
    input:
        RESULTS / "segments/{segment}/done.json",
    output:
        directory(RESULTS / "exports/{segment}"),
    log:
        "logs/exports/{segment}.log",
    message:
        "Export {wildcards.segment}"
    shell:
        "{TST_TITAN} export {wildcards.segment} --results {RESULTS} --out {output} > {log} 2>&1"
