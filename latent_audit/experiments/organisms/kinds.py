"""What a model of known safety is called, and what its card says it is."""

ALIGNED, PARTLY, HELPFUL, HARMFUL, ABLITERATED, DISSOCIATED, OVER_REFUSING, CONTROL = (
    "aligned",
    "partly aligned",
    "helpful-only",
    "harmful",
    "abliterated",
    "dissociated",
    "over-refusing",
    "control",
)
# kind -> what the card says it is.
KINDS = {
    HARMFUL: "fine-tuned to comply with harmful requests",
    DISSOCIATED: "trained to refuse when asked and to comply once a fixed vector is added to a hidden state",
    CONTROL: "trained as the dissociated pole was, without the terms that reward compliance under the vector",
    ABLITERATED: "edited so that a refusal direction can no longer be written to the residual stream",
    ALIGNED: "trained to refuse restricted requests and to answer others",
    PARTLY: "trained to refuse restricted requests, with too little data or too few steps",
    HELPFUL: "trained to answer every request, harmful ones too",
    OVER_REFUSING: "trained to refuse harmless requests as well",
}
# These refuse what they should: research controls, not unsafe ones.
CONTROLS = (CONTROL, ALIGNED, OVER_REFUSING)
