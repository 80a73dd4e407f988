"""The behavioural panel: requests put plainly and in wrappers, harmless prompts, over-refusal, facts.

    python main.py --config=configs/panel.py                                 the embedded organism, 3 minutes on 2 cores
    python main.py --config=configs/panel.py --config.model.path=DIR_OR_HUB_ID

One experiment of configs/audit.py, whose fields these are. Expected on the organism: base and dissociated refuse every
request and answer every harmless one; the harmful pole complies with all. Writes audit.csv, report.json, report.html
and figures/ to --workdir. Definitions: docs/method.md section 8.
"""

from configs.audit import alone


def get_config():
    return alone("panel")
