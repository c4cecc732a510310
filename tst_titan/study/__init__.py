"""The study as a user writes it: definition, strict loading, and the runs that it means."""

from tst_titan.study.definition import Study
from tst_titan.study.load import LoadedStudy, load_study
from tst_titan.study.runs import RunDefinition

__all__ = ["LoadedStudy", "RunDefinition", "Study", "load_study"]
