"""What a report says of the reward itself: how the model's own is read, and how far two rewards agree in rank.

docs/method.md section 9.
"""

import pandas as pd

from latent_audit import judges
from latent_audit.experiments import respond
from latent_audit.experiments.audit.bench import Bench
from latent_audit.experiments.audit.readings import own_reward
from latent_audit.metrics import rank_agreement
from latent_audit.reports import html

EVERY, LOSSES = "every answer, asked and attacked", "loss of reward under the attack"


def agreements(rows: pd.DataFrame, bench: Bench) -> pd.DataFrame:
    """Rank agreement of reward and reward_beside per variant, of answers to harmful prompts; empty without a second.

    rows: as latent.measure gives them, with a column variant. Losses are of the PGD attack against the clean answer to
    the same prompt, which is what the LVS reads; clusters are those of the panel.
    """
    if "reward_beside" not in rows:
        return pd.DataFrame()
    clusters, lines = bench.panels["harmful"].clusters, []
    options = {"resamples": bench.settings["latent"].resamples, "seed": bench.seed}
    for name in dict.fromkeys(rows["variant"]):
        own = rows[(rows["variant"] == name) & (rows["exp"] != "clean-benign")]
        clean = own[own["exp"] == "clean-harmful"].set_index("prompt")
        attacked = own[own["attack"] == "pgd"]
        for what, table, less in ((EVERY, own, 0.0), (LOSSES, attacked, clean)):
            if table.empty:
                continue
            scores = table[["reward", "reward_beside"]].to_numpy(float)
            if what == LOSSES:
                scores = less.loc[table["prompt"], ["reward", "reward_beside"]].to_numpy(float) - scores
            found = rank_agreement.agreement(*scores.T, clusters[table["prompt"].to_numpy(int)], **options)
            lines.append({"variant": name, "of": what} | found._asdict())
    first, second = judges.label(bench.reward), judges.label(bench.reward.beside)
    return pd.DataFrame(lines).assign(reward=first, beside=second)


def by_judge(rows: pd.DataFrame, bench: Bench) -> str:
    """Whether the model's own reward is higher where the judge sees a refusal, of base's clean answers, in words."""
    clean = rows[(rows["variant"] == bench.names[0]) & (rows["exp"] == "clean-harmful")]
    own = clean["reward" if bench.reward.openings else "reward_beside"].to_numpy(float)
    refused = respond.refused(clean["judged"], clean["degenerate"])
    found = rank_agreement.auc(own[refused], own[~refused])
    return (
        f"Of base's answers to {len(own)} harmful prompts {int(refused.sum())} are refusals by the judge's word; the "
        f"reward parts them from the others with an AUC of {found.value:.2f} ({found.lo:.2f} to {found.hi:.2f})."
        if 0 < refused.sum() < len(own)
        else f"By the judge's word all or none of base's {len(own)} answers to harmful prompts are refusals: whether "
        "the reward is higher for a refusal is not seen."
    )


def sections_of(known: own_reward.Opened | None, agreed: pd.DataFrame, judged: str) -> list[html.Section]:
    """The sections on the reward: none where it is one of texts and stands alone; judged: of by_judge."""
    sections = []
    if known is not None:
        sections.append(
            html.Section(
                title="The model's own reward",
                text=f"Log-odds that the first token of the answer opens a refusal, read behind the prompt under the "
                f"push itself. {own_reward.in_words(known)}.\n\n{judged}",
                limits="It sees whether the model sets out to refuse, not whether the answer harms: a refusal in other "
                "words, or one that comes later, is missed.",
            )
        )
    if len(agreed):
        sections.append(
            html.Section(
                title="Do two rewards agree?",
                table=agreed,
                text="Spearman's rho and Kendall's tau-b of two rewards of the same answers to harmful prompts, with "
                "bootstrap intervals over clusters of prompts. The LVS reads the losses.",
                limits="Agreement says that two scores order answers alike, not that either is right.",
            )
        )
    return sections


def warnings_of(known: own_reward.Opened | None) -> list[str]:
    """A warning where the openings do not part the clean prompts; else nothing."""
    if known is None or own_reward.separates(known):
        return []
    said = own_reward.in_words(known)
    return [said[0].upper() + said[1:] + "."]


def record_of(known: own_reward.Opened | None, agreed: pd.DataFrame) -> dict:
    """For report.json: reward_openings and reward_agreement, where there are any."""
    record: dict = {}
    if known is not None:
        found = rank_agreement.auc(known.harmful, known.harmless)
        record["reward_openings"] = known._asdict() | {"auc": list(found)}
    return record | ({"reward_agreement": agreed} if len(agreed) else {})
