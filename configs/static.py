"""Static audits: the probe with its shift diagnostics, the separation score, the geometry of mean states.

    python main.py --config=configs/static.py                                the embedded organism, 3 minutes on 2 cores
    python main.py --config=configs/static.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: the probe reads base and
dissociated alike, AUROC 1.0: it cannot see what the nudge does. Writes audit.csv, report.json, report.html and
figures/ to --workdir. Definitions: docs/method.md section 7.
"""

from configs.audit import alone


def get_config():
    return alone("static")
