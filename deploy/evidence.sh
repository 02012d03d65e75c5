#!/usr/bin/env bash
# Regenerates every figure of the README files and the cards from seeds, on data that is drawn anew:
# the demo study and its null twins are drawn, converted, trained and evaluated, and the model is
# trained without each of its parts. With PAST_REAL_DATA the HER2+ trial is run, too. What an
# interrupted run has finished is kept; remove the folder to begin anew.
set -euo pipefail
out=${1:-var/evidence}
seed=1
bin=.venv/bin
mkdir -p "$out"
out=$(realpath "$out")
[ -e "$out/study-shifted/study.json" ] || { rm -rf "$out"/study*; "$bin/python" -m fixtures --size demo --seed $seed "$out/study"; }

for twin in "" -permuted -shifted; do
  [ -e "$out/converted$twin/result.json" ] || "$bin/past" convert "$out/study$twin" "$out/converted$twin"
  printf 'out = "%s"\n[data]\nstudy = "%s"\n[model]\nencoder = "efficientnet_lite0"\n[training]\nseed = %s\n' \
    "$out/trained$twin" "$out/converted$twin" $seed > "$out/run$twin.toml"
  [ -e "$out/trained$twin/model/config.json" ] || "$bin/past" train "$out/run$twin.toml" > /dev/null
done

[ -e "$out/evaluated/CARD.md" ] || \
  "$bin/past" evaluate "$out/trained/model" "$out/converted" --out "$out/evaluated" > /dev/null
for twin in -permuted -shifted; do
  [ -e "$out/evaluated$twin/CARD.md" ] || "$bin/past" evaluate "$out/trained$twin/model" \
    "$out/converted$twin" --out "$out/evaluated$twin" --baselines mean colour_ridge frozen_ridge \
    --chapters > /dev/null
done
if [ -n "${PAST_REAL_DATA:-}" ] && [ ! -e "$out/her2st/trial.json" ]; then
  "$bin/past" trial her2st "$PAST_REAL_DATA/her2st" --out "$out/her2st" > /dev/null
fi
[ -e "$out/ablations.md" ] || { "$bin/past" ablate "$out/run.toml" > "$out/ablations.part" && mv "$out/ablations.part" "$out/ablations.md"; }
"$bin/past" evidence "$out" .
