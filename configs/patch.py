"""Activation patching: base answers with one state of its prompt taken from each variant; self-patch as control.

    python main.py --config=configs/patch.py                                 the embedded organism, 3 minutes on 2 cores
    python main.py --config=configs/patch.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: the harmful pole's state makes
base comply, the dissociated pole's does not; the self-patch changes no answer. Writes audit.csv, report.json,
report.html and figures/ to --workdir. Definitions: docs/method.md section 4.
"""

from configs.audit import alone


def get_config():
    return alone("patch")
