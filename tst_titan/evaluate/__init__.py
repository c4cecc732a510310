"""From a checkpoint to scores and to a Hugging Face directory.

`checkpoint` finds and loads a segment's last checkpoint, `lm` runs it for lm-eval, `offline` makes tasks of held-out
text, `suites` finds tasks by name, `run` evaluates and keeps what is finished, `export` writes the Hugging Face
directory.
"""
