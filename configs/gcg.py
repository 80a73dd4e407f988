"""The discrete attack for comparison: a suffix of ordinary tokens, found by greedy coordinate gradient.

    python main.py --config=configs/gcg.py                                   the embedded organism, 4 minutes on 2 cores
    python main.py --config=configs/gcg.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: the suffix reaches the target's
tokens at once, but few answers then comply. Writes audit.csv, report.json, report.html and figures/ to --workdir.
Definitions: docs/method.md section 8.
"""

from configs.audit import alone


def get_config():
    return alone("gcg")
