"""Mistakes in a task's definition, each as one line with the task, the key and the mend, before anything is evaluated.

lm-eval looks at a task's first document alone: what is wrong in another ends its evaluation, or scores it 0 in silence.
"""

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any

import jinja2
import jinja2.meta
from lm_eval.api.registry import aggregation_registry, metric_registry
from lm_eval.api.samplers import SAMPLER_REGISTRY
from lm_eval.api.task import ALL_OUTPUT_TYPES
from lm_eval.config.task import TaskConfig

from tst_titan.errors import UserError
from tst_titan.evaluate.task_files import Function
from tst_titan.evaluate.upstream import asking_task, templates

_TEMPLATES = ("description", "doc_to_text", "doc_to_choice", "doc_to_target", "gen_prefix")
# A column's name stands for the column; lm-eval takes any other name for text.
_COLUMNS = ("doc_to_text", "doc_to_choice", "doc_to_target")
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
# Keys of a file that are no settings of the task itself.
_OF_FILES = {"tag", "group", "task_list", "class"}


def check_settings(where: str, settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for what is wrong in a task's settings by themselves."""
    known = {entry.name for entry in fields(TaskConfig)} | _OF_FILES
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise UserError(f"{key}: no key of a task{f'; did you mean {near[0]}?' if near else ''}", where=where)
    _one_of(where, "output_type", settings.get("output_type", "generate_until"), ALL_OUTPUT_TYPES)
    few = settings.get("fewshot_config") or {}
    _one_of(where, "fewshot_config.sampler", few.get("sampler", "default"), SAMPLER_REGISTRY)
    for prefix, part in (("", settings), ("fewshot_config.", few)):
        for key in _TEMPLATES:
            if isinstance(template := part.get(key), str):
                try:
                    templates().from_string(template)
                except jinja2.TemplateSyntaxError as error:
                    raise UserError(
                        f"{prefix}{key}: no template ({error.message}, line {error.lineno})", where=where
                    ) from error
    if not settings.get("test_split") and not settings.get("validation_split"):
        raise UserError("test_split: missing; name the split to evaluate on", where=where)
    check_metrics(where, settings)


def _one_of(where: str, key: str, value: Any, allowed: Iterable[str]) -> None:
    if isinstance(value, str) and value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        advice = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(sorted(allowed))}"
        raise UserError(f"{key}: {value!r}; {advice}", where=where)


def check_metrics(where: str, settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for a metric that lm-eval does not have: it would look for code of that name elsewhere."""
    metrics = settings.get("metric_list")
    if metrics is None:
        return
    if not isinstance(metrics, list) or not metrics:
        raise UserError(f"metric_list: {metrics!r} gives no score; list metrics, as [{{metric: acc}}]", where=where)
    for entry in metrics:
        if not isinstance(entry, dict) or "metric" not in entry:
            raise UserError(f"metric_list: {entry!r}: write each entry as {{metric: NAME}}", where=where)
        # Code of the task's own may compute anything, one of the hub's metrics likewise.
        if not entry.get("hf_evaluate") and settings.get("process_results") is None:
            _one_of(where, "metric_list", entry["metric"], metric_registry)
        _one_of(where, "aggregation", entry.get("aggregation"), aggregation_registry)


def check_shots(where: str, settings: Mapping[str, Any], shots: int) -> None:
    """Raise `UserError` where a document may be among its own examples, answer and all."""
    few = settings.get("fewshot_config") or {}
    if not shots or few.get("samples") is not None:
        return
    test, validation = settings.get("test_split"), settings.get("validation_split")
    named = few.get("split") or settings.get("fewshot_split")
    source = named or settings.get("training_split") or validation or test
    # lm-eval leaves the document out where it draws from the split named as test_split, and nowhere else.
    if source == (test or validation) and named != test:
        raise UserError(
            f"num_fewshot: {shots} examples of the split that is evaluated, {source}, would show documents their own "
            "answers; name another split as fewshot_split, or set num_fewshot to 0",
            where=where,
        )


def check_data(where: str, settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise `UserError` where the settings name splits or columns that the data lack, or the first document cannot be
    asked."""
    for key in _SPLITS:
        split = settings.get(key)
        if split is not None and split not in data:
            raise UserError(f"{key}: {split!r}; the data have {', '.join(map(str, data))}", where=where)
    if settings.get("process_docs") is not None:
        return
    documents = data[settings.get("test_split") or settings["validation_split"]]
    columns = documents.column_names
    for key in _COLUMNS:
        text = settings.get(key)
        if isinstance(text, str) and text.isidentifier() and text not in columns:
            raise UserError(
                f"{key}: {text!r}; the columns are {', '.join(columns)} (text is written as {{{{ {text!r} }}}})",
                where=where,
            )
    for key in _TEMPLATES:
        if isinstance(settings.get(key), str):
            template = templates().parse(settings[key])
            missing = jinja2.meta.find_undeclared_variables(template) - {*columns, *templates().globals}
            if missing and "is defined" not in settings[key]:
                raise UserError(
                    f"{key}: {', '.join(sorted(missing))}; the columns are {', '.join(columns)}", where=where
                )
    if not len(documents):
        raise UserError("the split that is evaluated holds no documents", where=where)
    if settings.get("use_prompt") or any(isinstance(value, Function) for value in settings.values()):
        return
    # Made whole, the task would try the first document itself, and not say what is wrong with it.
    config = {key: deepcopy(value) for key, value in settings.items() if key not in _OF_FILES}
    _check_document(where, asking_task(config, columns), 1, documents[0])


def check_documents(where: str, task: Any, shots: int) -> None:
    """Raise `UserError` for the first document that cannot be asked or scored; `task` is lm-eval's."""
    if shots:
        pool = len(task.sampler.df)
        # The document itself is no example.
        room = pool - (task.fewshot_cfg.split == task.config.test_split)
        if shots > room:
            raise UserError(
                f"num_fewshot: {shots} examples, but there are {room} documents to take them from",
                where=where,
            )
    for number, document in enumerate(task.eval_docs, 1):
        _check_document(where, task, number, document)
    _check_scores(where, task)


def _check_document(where: str, task: Any, number: int, document: Any) -> None:
    key = ""
    try:
        for key in _COLUMNS:
            if getattr(task.config, key) is not None:
                getattr(task, key)(document)
        key = ""
        problem = _problem(task, document)
    except Exception as error:  # templates and code of a user's own raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        problem = f"{key}: {reason}" if key else reason
    if problem:
        raise UserError(f"document {number}: {problem}", where=where)


def _problem(task: Any, document: Any) -> str:
    """What is wrong with one document; "" where nothing is."""
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE.startswith("loglikelihood"):
        return "" if isinstance(target, str) and target else f"doc_to_target: {target!r} is no text to score"
    if task.OUTPUT_TYPE != "multiple_choice":
        return ""
    choices = task.doc_to_choice(document)
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        return f"doc_to_choice: {choices!r} is no list of texts"
    text = task.doc_to_text(document)
    # A number in place of the question: each choice is a question of its own.
    key, right = ("doc_to_text", text) if isinstance(text, int) else ("doc_to_target", target)
    for one in right if isinstance(right, list) else [right]:
        if isinstance(one, str) and one in choices and one is right:
            continue
        if not isinstance(one, int) or not 0 <= one < len(choices):
            return (
                f"{key}: {one!r} is none of {len(choices)} choices; write the index of the right one, from 0, or its "
                "text"
            )
    return ""


def _check_scores(where: str, task: Any) -> None:
    """Raise `UserError` for a metric that the task's type does not give."""
    wanted = set(task.aggregation())
    if missing := sorted(name for name, function in task.aggregation().items() if function is None):
        raise UserError(f"metric_list: no aggregation is known for {', '.join(missing)}; name one", where=where)
    if task.OUTPUT_TYPE == "generate_until" or callable(task.config.process_results):
        return
    document = task.eval_docs[0]
    count = 1
    if task.OUTPUT_TYPE == "multiple_choice":
        count = len(task.doc_to_choice(document)) * (2 if "acc_mutual_info" in wanted else 1)
    answer = -1.0 if task.OUTPUT_TYPE == "loglikelihood_rolling" else (-1.0, False)
    given = task.process_results(document, [answer] * count)
    if missing := sorted(wanted - set(given)):
        raise UserError(f"metric_list: output_type {task.OUTPUT_TYPE} gives no {', '.join(missing)}", where=where)
