"""Templates of tasks are text that others wrote: they are rendered where they reach nothing but their document."""

from typing import Any

from jinja2 import Template
from jinja2.sandbox import SandboxedEnvironment

from tst_titan.evaluate.upstream import render_templates_in, templates


class Sandbox(SandboxedEnvironment):
    """Jinja2's sandbox, which compiles each template once instead of once a document."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._compiled: dict[str, Template] = {}

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        if source not in self._compiled:
            self._compiled[source] = super().from_string(source, *args, **kwargs)
        return self._compiled[source]


def sandbox_templates() -> None:
    """Let lm-eval render every template in the sandbox, for the rest of this process."""
    plain = templates()
    if isinstance(plain, Sandbox):
        return
    sandbox = Sandbox(
        loader=plain.loader,
        undefined=plain.undefined,
        keep_trailing_newline=plain.keep_trailing_newline,
    )
    sandbox.filters |= plain.filters
    render_templates_in(sandbox)
