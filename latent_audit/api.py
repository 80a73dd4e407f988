"""The commands as functions: `latent_audit.audit("DIR_OR_ID", limit=8)` does what `latent-audit audit` does.

A call becomes the words of a command line and goes its way (latent_audit/commandline/command.py): the same checks,
working directory, lock, precision, progress and files. What ends a command with exit status 2 is raised as InputError.
Nothing large is imported before a function is called. docs/python.md.
"""

import html
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from latent_audit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Ours: what `show` prints of a long table, and how high the page is drawn in a notebook, in pixels.
MOST_ROWS, HEIGHT = 40, 800
_SHOWN = ("family", "model", "variant", "run", "measure", "layer", "exp", "attack", "budget", "protocol")
_VALUES = ("value", "lo", "hi", "n", "lvs", "lvs_lo", "lvs_hi", "asr", "asr_lo", "asr_hi", "ras", "ras_lo", "ras_hi")
_DIFFERENCES = ("difference", "difference_lo", "difference_hi")


class Card(NamedTuple):
    """A finished run.

    task; verdict: the label of the audited model, of a task that gives none (ras, compare) the first sentence of its
    page; verdicts: name -> label of every model of the run; sentence: that first sentence; table: DataFrame, the task's
    CSV (docs/tasks.md); report: the page; workdir: where everything lies.
    """

    task: str
    verdict: str
    verdicts: dict[str, str]
    sentence: str
    table: "pd.DataFrame"
    report: pathlib.Path
    workdir: pathlib.Path

    def show(self) -> None:
        """Show the page in a notebook; elsewhere print verdict, sentence and the head of the table."""
        if not _in_notebook():
            print(self)
            return
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        page = html.escape(self.report.read_text(encoding="utf-8"))
        # A frame of its own: the page's style is not the notebook's, and hosted notebooks serve no files.
        display(HTML(f'<iframe srcdoc="{page}" width="100%" height="{HEIGHT}" style="border: 0"></iframe>'))

    def __repr__(self) -> str:
        return f"Card(task={self.task!r}, verdict={self.verdict!r}, workdir={str(self.workdir)!r})"

    def __str__(self) -> str:
        from latent_audit.reports import columns

        wanted = [name for name in (*_SHOWN, *_VALUES, *_DIFFERENCES) if name in self.table]
        head = self.table[wanted].head(MOST_ROWS).dropna(axis="columns", how="all")
        left = len(self.table) - len(head)
        more = [f"... {left} more rows in card.table"] if left else []
        labels = [f"{name}: {label}" for name, label in self.verdicts.items()]
        return "\n".join([*labels, self.sentence, "", columns.in_text(head), *more, f"page: {self.report}"])


def audit(
    model: str | os.PathLike[str] = "",
    *,
    config: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    quick: bool = False,
    limit: int | None = None,
) -> Card:
    """The whole audit of a model, as `latent-audit audit` (docs/tasks.md); "" audits the embedded organism.

    Args:
      model: a checkpoint directory, a .gguf file or a hub id.
      config: field -> value, by dotted names as of `latent-audit fields audit`: {"model.dtype": "float32"}.
      workdir: where everything is written, by default runs/TASK-MODEL; the same call goes on where a stopped one was.
      quick: a first look, without a verdict; limit: at most so many prompts of each kind.
    Raises InputError for what can be wrong about these, before anything is computed or written.
    """
    return _task("audit", model, config, workdir, quick=quick, limit=limit)


def lvs(
    model: str | os.PathLike[str] = "",
    *,
    config: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    quick: bool = False,
    limit: int | None = None,
) -> Card:
    """The latent attack at every residual state, as `latent-audit lvs`; arguments and errors as of audit."""
    return _task("lvs", model, config, workdir, quick=quick, limit=limit)


def ras(
    targets: str | os.PathLike[str] = "",
    *,
    config: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Card:
    """Refusal alignment scores, as `latent-audit ras`: of the zoo of organisms, or of `targets`, ids by commas.

    config names their reference and calibration models, or a frozen calibration (docs/tasks.md). Other arguments and
    errors as of audit.
    """
    return _task("ras", targets, config, workdir, limit=limit)


def compare(*runs: "str | os.PathLike[str] | Card", workdir: str | os.PathLike[str] | None = None) -> Card:
    """Finished runs side by side, as `latent-audit compare`: their working directories, or Cards.

    Raises InputError for runs that are not comparable, with the field and both values.
    """
    places = [str(run.workdir) if isinstance(run, Card) else os.fspath(run) for run in runs]
    return read(_run(["compare", *_flags(None, workdir), "--", *places]))


def read(workdir: str | os.PathLike[str]) -> Card:
    """The Card of a run that is finished already; InputError for a directory that holds none."""
    import pandas as pd

    from latent_audit import user_files
    from latent_audit.experiments import tasks

    place = pathlib.Path(workdir)
    if not (place / "report.json").is_file():
        raise InputError(f"{place} holds no finished run: there is no report.json")
    record = user_files.read_json("the run's report", place / "report.json", kind=dict)
    task = str(record.get("task", ""))
    name = tasks.TASKS[task].table if task in tasks.TASKS else {"compare": "compare.csv"}.get(task, "")
    if not name:
        raise InputError(f"{place} is a run of task {task!r}, which has no table to read; open its report.html")
    verdicts = {name: str(given["label"]) for name, given in record.get("verdicts", {}).items()}
    sentence = str(record.get("headline", ""))
    table = pd.read_csv(user_files.check_file(f"the run's {name}", place / name))
    verdict = next(iter(verdicts.values()), sentence)
    return Card(task, verdict, verdicts, sentence, table, place / "report.html", place)


def _task(task, model, config, workdir, *, quick=False, limit=None) -> Card:  # type: ignore[no-untyped-def]
    words = [task, *_flags(config, workdir)]
    words += ["--quick"] if quick else []
    words += [] if limit is None else [f"--limit={limit}"]
    named = os.fspath(model)
    return read(_run([*words, "--", named] if named else words))


def _flags(config: Mapping[str, Any] | None, workdir: str | os.PathLike[str] | None) -> list[str]:
    """Fields and working directory as a command line has them."""
    fields = [f"--config.{field}={_text(field, value)}" for field, value in (config or {}).items()]
    return fields + ([] if workdir is None else [f"--workdir={os.fspath(workdir)}"])


def _text(field: str, value: Any) -> str:
    if isinstance(value, Mapping):
        raise InputError(f'config: {field!r} is a section; give its fields by dotted names, {{"{field}.NAME": value}}')
    return str(tuple(value)) if isinstance(value, list | tuple) else str(value)


def _run(words: list[str]) -> pathlib.Path:
    """Do what a command line of these words does; returns its working directory."""
    from latent_audit.commandline import process
    from latent_audit.runtime import ends, typed

    process.prepare()
    from latent_audit.commandline import command
    from latent_audit.runtime import about

    about.begin()
    with typed.instead(words):
        state = ends.Run(command=typed.command())
        command.run(words, state)
    assert state.workdir is not None
    return state.workdir


def _in_notebook() -> bool:
    """Whether there is a front end that draws HTML: IPython with a kernel, which a terminal's has not."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
