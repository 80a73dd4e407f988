"""latent_audit: audit open-weight language models from the inside.

`import latent_audit` brings the functions of latent_audit/api.py and nothing large; jax comes with the first run.
"""

from latent_audit.api import Card, audit, compare, lvs, ras, read
from latent_audit.errors import InputError

__version__ = "0.2.0"
__all__ = ["Card", "InputError", "__version__", "audit", "compare", "lvs", "ras", "read"]
