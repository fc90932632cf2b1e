# Tells CMake that wasm32-wasi is a platform it may build for; the toolchain file says the rest.
set(UNIX 1)
