"""The discrete attack for comparison: a suffix of ordinary tokens, found by greedy coordinate gradient.

    python main.py --config=configs/gcg.py                                   the embedded organism, 4 minutes on 2 cores
    python main.py --config=configs/gcg.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: the suffix reaches the target's
tokens at once, but few answers then comply. Writes audit.csv, report.json, report.html and figures/ to --workdir.
Definitions: docs/method.md section 8.
"""

import ml_collections

from configs import audit


def get_config() -> ml_collections.ConfigDict:
    config = audit.get_config()
    config.name = "gcg"
    config.experiments = "gcg"
    return config
