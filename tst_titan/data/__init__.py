"""From documents to a token stream: sources, tokenizers, Arrow shards and the order in which they are read.

`build.build_corpus` makes a corpus; `stream.TokenStream` reads it at any position; `validation.validation_windows`
gives the held-out windows. Order of the modules: sources -> tokenizers -> tokenize (one parallel job) -> build ->
stream.
"""
