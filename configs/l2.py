"""The adaptive L2 attack at one layer: success by budget with its random control, and the break budget.

    python main.py --config=configs/l2.py                                    the embedded organism, 4 minutes on 2 cores
    python main.py --config=configs/l2.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: at the nudge fraction the
dissociated pole falls on every prompt, base on a few, random directions on none. Writes audit.csv, report.json,
report.html and figures/ to --workdir. Definitions: docs/method.md section 2.
"""

from configs.audit import alone


def get_config():
    return alone("l2")
