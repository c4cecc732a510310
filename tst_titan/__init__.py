"""tst-titan: declarative scaling studies of Token-Superposition Training against baseline pretraining."""

__version__ = "0.1.0"
