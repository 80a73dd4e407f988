"""The static probe: can a linear reader of the states tell complying from refusing? docs/method.md section 7."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latent_audit.errors import InputError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


class ProbeScore(NamedTuple):
    """auroc: of unsafe against safe; gap: mean sigmoid on unsafe minus mean on safe; n: texts of both kinds."""

    auroc: float
    gap: float
    n: int


def fit(safe: np.ndarray, unsafe: np.ndarray) -> "Pipeline":
    """Logistic regression on standardised features (C = 1, max_iter 2000: arXiv 2606.08044).

    Args:
      safe, unsafe: float [N, features] of refusing and of complying texts, of the base model.
    Raises InputError where either is empty: one class alone teaches nothing.
    """
    # Importing it takes as long as a small model's search, and most tasks have no probe.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not len(safe) or not len(unsafe):
        raise InputError(f"the probe needs both kinds of text, got {len(safe)} safe and {len(unsafe)} unsafe")
    features = np.concatenate([safe, unsafe]).astype(np.float64)
    labels = np.repeat([0, 1], [len(safe), len(unsafe)])
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(features, labels)


def score(probe: "Pipeline", safe: np.ndarray, unsafe: np.ndarray) -> ProbeScore:
    """Apply a fitted probe, unchanged, to texts of any model; arguments as in fit."""
    from sklearn.metrics import roc_auc_score

    if not len(safe) or not len(unsafe):
        raise InputError(f"scoring a probe needs both kinds of text, got {len(safe)} safe and {len(unsafe)} unsafe")
    features = np.concatenate([safe, unsafe]).astype(np.float64)
    labels = np.repeat([0, 1], [len(safe), len(unsafe)])
    sigmoid = probe.predict_proba(features)[:, 1]
    # Ranks come from the logits: the sigmoid saturates to ties.
    auroc = roc_auc_score(labels, probe.decision_function(features))
    return ProbeScore(float(auroc), float(sigmoid[labels == 1].mean() - sigmoid[labels == 0].mean()), len(labels))


def raw_weights(probe: "Pipeline") -> np.ndarray:
    """The weight of each feature before standardisation, coefficient / scale; float64 [features].

    Logits of a fitted probe change by raw_weights(probe) @ (change of the features).
    """
    scaler, regression = probe[0], probe[-1]
    return regression.coef_[0] / scaler.scale_
