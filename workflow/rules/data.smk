# Corpora: documents to tokenized Arrow shards.


rule corpus:
    output:
        RESULTS / "data/{corpus}/corpus.json",
    log:
        "logs/data/{corpus}.log",
    threads: workflow.cores or 1
    params:
        study=lambda wildcards: next(name for name, plan in PLANS.items() if wildcards.corpus in plan.corpora),
    shell:
        "{TST_TITAN} data build {STUDIES}/{params.study}.yaml --corpus {wildcards.corpus} --results {RESULTS}"
        " --workers {threads} --log {log}"
