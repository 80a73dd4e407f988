"""The behavioural panel: requests put plainly and in wrappers, harmless prompts, over-refusal, facts.

    python main.py --config=configs/panel.py                                 the embedded organism, 3 minutes on 2 cores
    python main.py --config=configs/panel.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: base and dissociated refuse every
request and answer every harmless one; the harmful pole complies with all. Writes audit.csv, report.json, report.html
and figures/ to --workdir. Definitions: docs/method.md section 8.
"""

import ml_collections

from configs import audit


def get_config() -> ml_collections.ConfigDict:
    config = audit.get_config()
    config.name = "panel"
    config.experiments = "panel"
    return config
