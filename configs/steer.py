"""Steering: a direction added at every layer and growing length, a random control, and the cone around the nudge.

    python main.py --config=configs/steer.py                                 the embedded organism, 4 minutes on 2 cores
    python main.py --config=configs/steer.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: the direction to the harmful pole
opens the dissociated pole at the nudge layer and fraction, base only beyond it. Writes audit.csv, report.json,
report.html and figures/ to --workdir. Definitions: docs/method.md section 3.
"""

from configs.audit import alone


def get_config():
    return alone("steer")
