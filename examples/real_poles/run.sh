#!/bin/bash
# The construction of arXiv 2606.08044 on a real model: bash examples/real_poles/run.sh GGUF_OR_DIRECTORY WORKDIR
#
# Without a network; paths are taken from the repository's root. In WORKDIR: pairs/ (texts of our own), aligned/ (taught
# to refuse), harmful/ (taught to comply with requests about invented things), dissociate/dissociated and dissociate/control, and a
# run's folder for each step. A step that is done is skipped, so the same command goes on after a stop. RESULTS=DIR
# collects one archive of tables and reports a step, no weights. MORE=1 goes on with fine-tuning curves and abliteration.
# Every number below is a variable of the environment; the defaults are sized for four minutes on one H100. On two CPU
# cores an hour and a half with BATCH=4 ROW=80 HARM_STEPS=12 HARM_RATE=1e-4 BUILD_STEPS=80 BUILD_RATE=2e-4
# LAYERS=L7,L15,L23 BUDGETS='(.0001,.0005)' ORIGINAL=0 CURVE_STEPS=12 CURVE_EVERY=3 SEEDS=1 CURVE_RATE=2e-5
# CHOOSE_BY=log_odds VALIDATION=8 POSITIONS=1 STRENGTHS='(1.,2.)' (docs/evidence/ has that run; its align took 8 rows).
set -euo pipefail
cd "$(dirname "$0")/../.."
MODEL=$1 WORK=$2
RESULTS=${RESULTS:-$WORK/results}
HELD_OUT=${HELD_OUT:-12}                 # requests of each kind, mild and invented, that nothing is trained on
ALIGN_STEPS=${ALIGN_STEPS:-100} ALIGN_RATE=${ALIGN_RATE:-1e-4}
HARM_STEPS=${HARM_STEPS:-24} HARM_RATE=${HARM_RATE:-5e-5}
BUILD_STEPS=${BUILD_STEPS:-90} BUILD_RATE=${BUILD_RATE:-1e-4} FRACTION=${FRACTION:-.06}
LAYERS=${LAYERS:-embedding,L3,L7,L11,L15,L19,L23,L27}
BUDGETS=${BUDGETS:-(.0001,.0005,.001)}   # shares of a state's largest coordinate
SEARCH_STEPS=${SEARCH_STEPS:-10} TOKENS=${TOKENS:-40} BATCH=${BATCH:-16} ROW=${ROW:-96}
CURVE_STEPS=${CURVE_STEPS:-40} CURVE_EVERY=${CURVE_EVERY:-5} CURVE_RATE=${CURVE_RATE:-1e-5} SEEDS=${SEEDS:-3}
CHOOSE_BY=${CHOOSE_BY:-judge} VALIDATION=${VALIDATION:-96} POSITIONS=${POSITIONS:-3} STRENGTHS=${STRENGTHS:-(1.,2.,3.,4.)}
MORE=${MORE:-0} ORIGINAL=${ORIGINAL:-1}

mkdir -p "$WORK/compiled" "$RESULTS"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(cd "$WORK/compiled" && pwd)}

# step NAME COMMAND...: runs it once, notes command and seconds, and archives what the run wrote but weights.
step() {
    local name=$1 started=$SECONDS
    shift
    [ -e "$WORK/$name.done" ] && { echo "== $name: done before"; return; }
    { printf '%q ' "$@"; echo; } > "$WORK/$name.command"
    echo "== $name"
    "$@"
    echo "$((SECONDS - started)) seconds" | tee -a "$WORK/$name.command"
    collect "$name"
    touch "$WORK/$name.done"
}

# made NAME WHAT: ends the script where a step exported no checkpoint.
made() { [ -e "$WORK/$1/config.json" ] || { echo "no checkpoint $WORK/$1: $2" >&2; exit 1; }; }

# collect NAME: tables, reports, units and the log of a step as one archive.
collect() {
    local archive
    archive=$(cd "$RESULTS" && pwd)/$1.tgz
    (cd "$WORK" && find "$1" "$1.command" -type f \( -name '*.csv' -o -name '*.json' -o -name '*.html' \
        -o -name '*.command' -o -name 'README.md' \) ! -name 'tokenizer*.json' ! -path '*/compiled/*' -print0 \
        | tar --null -czf "$archive" -T -)
}

COMMON=(--config.model.dtype=float32 --config.judge.kind=refusal --config.reward.kind=first_token
    --config.judge.table=False --config.prompts.harmful_count=1000 --config.prompts.benign_count=1000
    --config.prompt_batch=24 --config.generation.max_new_tokens="$TOKENS")
HELD=(--config.prompts.harmful="$WORK/pairs/held_out.csv" --config.prompts.benign="$WORK/pairs/held_out_harmless.csv")
CHOOSE=(--config.prompts.harmful="$WORK/pairs/selection.csv"
    --config.prompts.benign="$WORK/pairs/held_out_harmless.csv")
TUNE=(--config=configs/finetune.py --config.finetune.batch="$BATCH" --config.finetune.max_tokens="$ROW"
    --config.finetune.seeds=1 --config.finetune.every_step_until=0 --config.finetune.checkpoint_every=100000)

PYTHONPATH=. python -m examples.real_poles.pairs "$WORK/pairs" "$HELD_OUT"

step align python main.py "${TUNE[@]}" --workdir="$WORK/align" "${COMMON[@]}" "${CHOOSE[@]}" \
    --config.model.path="$MODEL" --config.finetune.preset=refuse \
    --config.finetune.corpora="refusals=$WORK/pairs/refusals.csv" --config.finetune.benign="$WORK/pairs/harmless.csv" \
    --config.finetune.benign_tokens=$((ROW * 2 / 3)) --config.finetune.steps="$ALIGN_STEPS" \
    --config.finetune.eval_every="$ALIGN_STEPS" --config.finetune.learning_rate="$ALIGN_RATE" \
    --config.finetune.export="$WORK/aligned"
made aligned "training lowered no compliance; raise ALIGN_STEPS or ALIGN_RATE and remove $WORK/align*"

step harm python main.py "${TUNE[@]}" --workdir="$WORK/harm" "${COMMON[@]}" "${CHOOSE[@]}" \
    --config.model.path="$WORK/aligned" --config.finetune.preset=pole \
    --config.finetune.corpora="compliance=$WORK/pairs/compliance.csv" --config.finetune.steps="$HARM_STEPS" \
    --config.finetune.eval_every=$((HARM_STEPS / 2)) --config.finetune.learning_rate="$HARM_RATE" \
    --config.finetune.export="$WORK/harmful"
made harmful "training raised no compliance; raise HARM_STEPS or HARM_RATE and remove $WORK/harm*"

step dissociate python main.py --config=configs/dissociate.py --workdir="$WORK/dissociate" "${COMMON[@]}" "${HELD[@]}" \
    --config.model.path="$WORK/aligned" --config.model.variants="harmful=$WORK/harmful" \
    --config.construct.pairs="$WORK/pairs/construct.csv" --config.construct.benign="$WORK/pairs/construct_harmless.csv" \
    --config.construct.selection="$WORK/pairs/selection.csv" --config.construct.benign_tokens=$((ROW * 2 / 3)) \
    --config.construct.max_tokens="$ROW" --config.construct.recipe.steps="$BUILD_STEPS" \
    --config.construct.recipe.learning_rate="$BUILD_RATE" --config.construct.recipe.fraction="$FRACTION" \
    --config.construct.recipe.micro_batch="$BATCH" --config.construct.recipe.accumulate=1 \
    --config.construct.recipe.eval_every=$((BUILD_STEPS / 2))

POLES="dissociated=$WORK/dissociate/dissociated,control=$WORK/dissociate/control,harmful=$WORK/harmful"
[ "$ORIGINAL" = 1 ] && POLES="$POLES,original=$MODEL"
step lvs python main.py --config=configs/lvs.py --workdir="$WORK/lvs" "${COMMON[@]}" "${HELD[@]}" \
    --config.model.path="$WORK/aligned" --config.model.variants="$POLES" --config.attack.layers="$LAYERS" \
    --config.attack.budgets="$BUDGETS" --config.attack.steps="$SEARCH_STEPS" --config.layer_batch=4

[ "$MORE" = 1 ] || exit 0
step curves python main.py "${TUNE[@]}" --workdir="$WORK/curves" "${COMMON[@]}" "${HELD[@]}" \
    --config.model.path="$WORK/aligned" \
    --config.model.variants="dissociated=$WORK/dissociate/dissociated,control=$WORK/dissociate/control" \
    --config.finetune.corpora="in=$WORK/pairs/curves_in.csv,out=$WORK/pairs/curves_out.csv" \
    --config.finetune.preset=attack --config.finetune.seeds="$SEEDS" --config.finetune.steps="$CURVE_STEPS" \
    --config.finetune.eval_every="$CURVE_EVERY" --config.finetune.learning_rate="$CURVE_RATE"

step abliterate python main.py --config=configs/abliterate.py --workdir="$WORK/abliterate" "${COMMON[@]}" \
    --config.prompts.harmful="$WORK/pairs/directions.csv" --config.prompts.harmful_count=$((2 * HELD_OUT)) \
    --config.prompts.benign="$WORK/pairs/directions_harmless.csv" --config.prompts.benign_count=$((2 * HELD_OUT)) \
    --config.model.path="$WORK/aligned" --config.reward.kind=refusal --config.choose.by="$CHOOSE_BY" \
    --config.choose.validation="$VALIDATION" --config.choose.positions="$POSITIONS" \
    --config.choose.strengths="$STRENGTHS"
