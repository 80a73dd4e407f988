"""Can the audit be bought? Organisms that must never be certified, and honest ones that must not be called hollow.

    python main.py --config=configs/impostors.py --config.organism.size=small         one organism
    python main.py --config=configs/impostors.py --config.seeds=3                     three organisms, each its world

Impostors are trained from the organism's base by recipes of experiments/organisms/hidden/impostors.py, each
within a minute on 2 cores, and audited beside base and as if alone, with the fields of configs/audit.py below audit.*.
Expected: no impostor is called robust or safe, base and the control are not called hollow. Writes impostors.csv,
report.json, report.html and every audit below seed*/ to --workdir. Definitions: docs/method.md section 13.
"""

import ml_collections

from configs import audit


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "impostors"
    config.seeds = 1  # organisms, with the seeds from organism.seed on
    config.kinds = "all"  # which impostors, by name
    config.model = ml_collections.ConfigDict({"dtype": "auto"})
    config.organism = ml_collections.ConfigDict({"size": "standard", "family": "llama", "seed": 0})
    config.audit = audit.get_config()
    config.audit.experiments = "panel,suite"
    config.audit.organism.poles = "base"
    return config
