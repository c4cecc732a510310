"""What of lm-eval (0.4.13) and transformers is private, replaced or unsettled: when one of it moves, this file is
mended.

`NAMES` says what each is for; `tests/test_upstream.py` looks them up, and that no other file touches a private name.
What lm-eval documents for others (its models' and tasks' interfaces, its registries) is imported where it is used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import lm_eval.utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.task import TaskConfig
from lm_eval.tasks._factory import GROUP_FIELD_NAMES as GROUP_FIELD_NAMES
from lm_eval.tasks._index import Entry as Entry
from lm_eval.tasks._index import Kind as Kind
from lm_eval.tasks._index import TaskIndex as TaskIndex
from lm_eval.tasks._yaml_loader import _import_func_in_yml

NAMES = {
    "lm_eval.api.model:TemplateLM._loglikelihood_tokens": "defined: lm-eval asks every model for it; its own Hugging Face backend's is bounded",  # noqa: E501
    "lm_eval.api.task:ConfigurableTask._config": "set: a task that renders documents and loads none",
    "lm_eval.tasks._factory:GROUP_FIELD_NAMES": "keys of a group that are no settings of its members",
    "lm_eval.tasks._index:Entry": "a definition in lm-eval's index, into which a user's go without their files",
    "lm_eval.tasks._index:Kind": "task, group or tag",
    "lm_eval.tasks._index:TaskIndex.process_cfg": "called: what a user's definition is in the index",
    "lm_eval.tasks._yaml_loader:_import_func_in_yml": "called: the function that a trusted definition names",
    "lm_eval.utils:env": "replaced: all templates are rendered in a sandbox",
    "transformers:PreTrainedModel._keep_in_fp32_modules_strict": "set in qwen3_moe_biased.py, which exports bring along and stands alone",  # noqa: E501
}


def import_function(name: str, folder: Path) -> Any:
    """What `!function name` in a definition of `folder` means; runs the module's code."""
    return _import_func_in_yml(name, folder)


def templates() -> jinja2.Environment:
    """In which lm-eval renders the templates of all tasks."""
    return lm_eval.utils.env


def render_templates_in(environment: jinja2.Environment) -> None:
    """Have lm-eval render the templates of all tasks in `environment`, for the rest of this process."""
    lm_eval.utils.env = environment


def asking_task(settings: Mapping[str, Any], columns: list[str]) -> ConfigurableTask:
    """As much of lm-eval's task as renders a document with these columns: made whole, it loads its data and tries the
    first one."""
    task = ConfigurableTask.__new__(ConfigurableTask)
    task._config, task.OUTPUT_TYPE = TaskConfig(**settings), settings.get("output_type", "generate_until")
    task.prompt, task.features = None, columns
    return task
