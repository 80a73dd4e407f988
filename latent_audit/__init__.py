"""latent_audit: audit open-weight language models from the inside."""

__version__ = "0.2.0"
