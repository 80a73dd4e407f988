"""What the command line says of itself, in lines for a terminal of 80 columns."""

import textwrap

from latent_audit import __version__
from latent_audit.commandline import config_files

_USAGE = """\
latent_audit {version}: audit an open-weight language model from the inside.

usage:
  latent-audit TASK [MODEL] [--config.FIELD=VALUE] [--workdir=DIR]
               [--quick] [--limit=N] [--dry-run]
  latent-audit ls                      the tasks, a line each
  latent-audit TASK --help             what a task does, costs and writes
  latent-audit fields TASK [PATTERN]   its fields, their defaults and bounds
  latent-audit fields                  those of all tasks, as a page
  latent-audit columns                 what stands in every CSV, as a page
  latent-audit doctor                  what this machine has and lacks
  latent-audit compare RUN RUN ...     finished runs side by side
  latent-audit compare-paper [WORKDIR] CSV_OR_DIR
                                       published numbers, and a run beside them
  latent-audit rejudge WORKDIR --config.judge.FIELD=VALUE
                                       its saved answers, by another judge
  latent-audit report WORKDIR          what a stopped run has found so far
  latent-audit export WORKDIR [--model-card] [--inspect] [--tensorboard]
               [--wandb] [--variant=NAME]
                                       an audit for other tools to open
  latent-audit push WORKDIR --repo=OWNER/NAME [--dry-run]
                                       its card and report to the hub
  latent-audit --version

TASK is a name of `latent-audit ls` or the path of a config file of your own.
MODEL is a checkpoint directory or a hub id; without one the embedded model
organism is trained and audited. Everything is written to the workdir, by
default runs/TASK-MODEL; the same command goes on where a stopped one was.
--quick is a first look at lvs or audit, without a verdict; --limit=N takes at
most N prompts of each kind.
--dry-run checks everything and says what would be done, without writing.

examples:
  latent-audit lvs
  latent-audit lvs DIR_OR_HUB_ID --quick
  latent-audit lvs DIR_OR_HUB_ID --config.model.dtype=bfloat16
  latent-audit l2 DIR --config.judge.kind=refusal --config.reward.kind=refusal
  latent-audit sweep:lvs DIR --config.fields="{{'attack.steps': [5, 10]}}"
  latent-audit fields lvs attack

In a checkout `python main.py` is the same program, and --config=configs/lvs.py
the same as lvs.

exit status: 0 done, 1 a fault or a machine that gave out, 2 bad input,
3 a failed regression test, 129, 130 and 143 hung up, interrupted, terminated.
"""


def usage() -> list[str]:
    """Lines of --help."""
    return _USAGE.format(version=__version__).splitlines()


def tasks() -> list[str]:
    """A line per task, from the docstring of its config file."""
    names = config_files.tasks()
    width = max(map(len, names))
    return [f"{name:<{width}}  {config_files.summary(name)}" for name in names]


def of_task(task: str, text: str) -> list[str]:
    """Lines of `latent-audit TASK --help`: the config file's docstring, and how its fields are found."""
    return [
        f"usage: latent-audit {task} [MODEL] [--config.FIELD=VALUE ...]",
        "",
        *_fold(text),
        "",
        f"`latent-audit fields {task} [PATTERN]` lists its fields.",
    ]


def _fold(text: str) -> list[str]:
    """Paragraphs in lines of 80 columns; commands, which stand behind four blanks, as they are."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            lines += paragraph.splitlines()
        else:
            lines += textwrap.wrap(paragraph, 80, break_long_words=False, break_on_hyphens=False)
        lines.append("")
    return lines[:-1]
