# Corpora: documents to tokenized Arrow shards. Only as much is tokenized as the plans read. A large corpus is listed once
# (its tokenizer made), tokenized by many jobs, each a share of its files, and put together by one.

CORPUS = RESULTS.corpus("{corpus}")
# At most.
TOKENIZING_THREADS = TITAN.tokenizing_threads(granted_cores(workflow))


rule corpus_listing:
    output:
        touch(CORPUS.listed),
    localrule: TITAN.corpora_are_local
    threads: TOKENIZING_THREADS
    resources:
        **TITAN.corpus_resources,
    message:
        "List {wildcards.corpus}"
    shell:
        "{TST_TITAN} data build {STUDIES:q} --results {RESULTS.root:q} --corpus {wildcards.corpus:q} --workers {threads} --list"


rule corpus_part:
    input:
        CORPUS.listed,
    output:
        touch(CORPUS.part("{part}", "{parts}")),
    localrule: TITAN.corpora_are_local
    threads: TOKENIZING_THREADS
    resources:
        **TITAN.corpus_resources,
    message:
        "Tokenize share {wildcards.part} of {wildcards.parts} of {wildcards.corpus}"
    shell:
        "{TST_TITAN} data build {STUDIES:q} --results {RESULTS.root:q} --corpus {wildcards.corpus:q} --workers {threads}"
        " --part {wildcards.part}/{wildcards.parts}"


rule corpus:
    input:
        TITAN.corpus_parts,
    output:
        # Snakemake deletes outputs before a job: not what another checkout has finished meanwhile.
        update(CORPUS.manifest),
    localrule: TITAN.corpora_are_local
    threads: TOKENIZING_THREADS
    resources:
        **TITAN.corpus_resources,
    message:
        "Tokenize {wildcards.corpus}"
    shell:
        "{TST_TITAN} data build {STUDIES:q} --results {RESULTS.root:q} --corpus {wildcards.corpus:q} --workers {threads}"


rule corpus_growth:
    output:
        touch(CORPUS.grown("{tokens}")),
    localrule: TITAN.corpora_are_local
    threads: TOKENIZING_THREADS
    resources:
        **TITAN.corpus_resources,
    message:
        "Tokenize more of {wildcards.corpus}"
    shell:
        "{TST_TITAN} data build {STUDIES:q} --results {RESULTS.root:q} --corpus {wildcards.corpus:q} --workers {threads}"
