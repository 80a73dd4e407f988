"""Taking a refusal direction out of a model: in its weights, or as an edit of its states.

The idea is that of arXiv 2406.11717: one direction of the residual stream carries much of the decision to refuse. The
three ways here are named in WAYS; see docs/method.md section 6.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.interventions import edits
from latent_audit.models import families
from latent_audit.models.config import ModelConfig
