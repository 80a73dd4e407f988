"""`latent-audit` and `python -m latent_audit`: the command line, inside of what says how it ended."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ != "__mp_main__":
    # Until it is listened to below, an interrupt ends the process without a traceback: nothing has been done yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from latent_audit.commandline import process
from latent_audit.runtime import ends, typed


def main() -> int:
    """Do what sys.argv says and return the exit status; see runtime/ends.py."""
    run = ends.Run(command=typed.command())
    try:
        closed = ends.open_streams()
        ends.listen(run)
        process.prepare()
        from latent_audit.commandline import command

        status = command.run(sys.argv[1:], run, closed)
    except BaseException as error:
        status = ends.explain(error, run)
    return ends.close(status)


if __name__ == "__main__":
    sys.exit(main())
