# Corpora: documents to tokenized Arrow shards.


rule corpus:
    output:
        RESULTS / "data/{corpus}/corpus.json",
    threads: workflow.cores or 1
    message:
        "Tokenize {wildcards.corpus}"
    shell:
        "{TST_TITAN} data build {STUDIES} --corpus {wildcards.corpus} --results {RESULTS} --workers {threads}"
