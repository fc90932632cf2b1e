#!/usr/bin/env bash
# Makes SmolLM2-135M-Instruct for the web in build/smollm2/web, from the published GGUF file:
#
#   build.sh [float32] [float16]   both when none is named
#
# Each of build/smollm2/web/float32 and float16 holds model.wasm (the compiled model with the runtime), the weights as a
# tensor cache, tokenizer.json and tokenizer_config.json; float32 also model-software.wasm, for adapters that are
# software. What is there and up to date is not made again. Needs tools/fetch_model.sh's model, the native command
# `sluice` and the archive sluice_model of the wasm build.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=models/smollm2
folder=build/smollm2
gguf=build/models/SmolLM2-135M-Instruct.Q4_1.gguf
sluice=build/native/hosts/native/sluice
export PYTHONPATH=$folder/python PYTHONDONTWRITEBYTECODE=1

die() {
    printf 'smollm2: error: %s\n' "$*" >&2
    exit 1
}

# stale NAME OUTPUT INPUTS: whether OUTPUT is missing, or was made of other inputs than these files are now.
stale() {
    key=$(sha256sum "${@:3}" | sha256sum)
    stamp=$folder/$1.made
    [[ ! -e $2 || ! -f $stamp || $(<"$stamp") != "$key" ]]
}
# After stale NAME and the making.
done_with() { printf '%s\n' "$key" >"$stamp"; }

[[ -f $gguf ]] || die "$gguf is missing; tools/fetch_model.sh gets it"
[[ -x $sluice ]] || die "$sluice is missing; make native builds it"
mkdir -p $folder

if stale python $folder/python $here/requirements.txt; then
    printf 'smollm2: installing Python packages, among them TVM\n'
    rm -rf $folder/python
    PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-deps --only-binary :all: \
        --root-user-action=ignore --target $folder/python -r $here/requirements.txt ||
        die "pip could not install the packages of $here/requirements.txt"
    done_with
fi

# build_wasm NAME OUTPUT OPTIONS: compiles with these options of compile.py and links.
build_wasm() {
    local name=$1 output=$2
    shift 2
    local objects=("$folder/objects/$name"/{lib0,devc}.o)
    if stale "objects-$name" "${objects[1]}" $here/requirements.txt \
        $here/{compile,model,software,gguf_model}.py; then
        printf 'smollm2: compiling for WebGPU, %s\n' "$name"
        python3 $here/compile.py $gguf webgpu "$@" --output "$folder/objects/$name" \
            2>$folder/compile.log || die "$(<$folder/compile.log)"
        done_with
    fi
    if stale "wasm-$name" "$output" "${objects[@]}" tools/link_model.py \
        hosts/wasm/runtime_exports.txt build/wasm/hosts/wasm/libsluice_model.a; then
        printf 'smollm2: linking %s\n' "$output"
        python3 tools/link_model.py -o "$output" "${objects[@]}"
        done_with
    fi
}

(($# > 0)) || set -- float32 float16
for dtype; do
    web=$folder/web/$dtype
    mkdir -p "$web"
    build_wasm "$dtype" "$web/model.wasm" --dtype "$dtype"
    if [[ $dtype == float32 ]]; then
        build_wasm "$dtype-software" "$web/model-software.wasm" --dtype "$dtype" --software
    fi

    # Its size and time stand for its content, which tools/fetch_model.sh has checked
    stat -c '%s %Y' $gguf >$folder/gguf.stat
    if stale "weights-$dtype" "$web/tensor-cache.json" $folder/gguf.stat; then
        printf 'smollm2: packing the weights as %s\n' "$dtype"
        $sluice pack $gguf --dtype "$dtype" --output "$web" --force --quiet
        done_with
    fi
    if stale "tokenizer-$dtype" "$web/tokenizer.json" $folder/gguf.stat \
        $here/{tokenizer,gguf_model}.py; then
        python3 $here/tokenizer.py $gguf "$web"
        done_with
    fi
done
