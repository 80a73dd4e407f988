"""Audit an open-weight language model from the inside: `python main.py --config=configs/lvs.py`.

The same program as `latent-audit lvs`, for a checkout that is not installed. The way of a command:

    main.py -> latent_audit/__main__.py            signals and streams; whatever happens ends in one line
            -> latent_audit/commandline/command.py flags, config, checks, working directory
            -> latent_audit/experiments/tasks.py   config.task -> the module whose run(config, workdir) does it

Exit statuses are those of latent_audit/runtime/ends.py; a task may have others of its own (configs/ras_regression.py:
3).
"""

import sys

from latent_audit.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
