# The project's own target kinds: sluice_library, sluice_test, sluice_fuzzer, sluice_benchmark.

find_package(nlohmann_json QUIET)

add_library(sluice_options INTERFACE)
target_include_directories(sluice_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(sluice_options INTERFACE -Wall -Wextra -Werror -Wconversion -Wshadow
  -Wimplicit-fallthrough -Wno-missing-designated-field-initializers -Wno-sign-conversion -ffile-prefix-map=${PROJECT_SOURCE_DIR}/=)
if(SLUICE_SANITIZE OR SLUICE_FUZZ)
  set(SLUICE_SANITIZERS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(sluice_options INTERFACE ${SLUICE_SANITIZERS})
  target_link_options(sluice_options INTERFACE ${SLUICE_SANITIZERS})
endif()
if(SLUICE_FUZZ)
  target_compile_options(sluice_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# What ships as wasm: neither exceptions nor RTTI, on every platform, so that both builds are one language.
add_library(sluice_core_options INTERFACE)
target_link_libraries(sluice_core_options INTERFACE sluice_options)
target_compile_options(sluice_core_options INTERFACE -fno-exceptions -fno-rtti)

# sluice_library(NAME SOURCES a.cc … DEPS sluice_base …): a static library of the core.
function(sluice_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC ${arg_DEPS} PRIVATE sluice_core_options)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
endfunction()

# sluice_test(NAME SOURCES a_test.cc … DEPS …): one GoogleTest binary, one ctest entry a case.
function(sluice_test name)
  if(CMAKE_SYSTEM_NAME STREQUAL "WASI" OR SLUICE_FUZZ)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} sluice_options GTest::gtest_main)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60)
endfunction()

# sluice_fuzzer(NAME SOURCES a_fuzz.cc DEPS … CORPUS dir): libFuzzer with the preset `fuzz`; otherwise
# a plain program that replays its corpus, so that ordinary builds keep the target compiling and the
# kept corpus is a test.
function(sluice_fuzzer name)
  if(CMAKE_SYSTEM_NAME STREQUAL "WASI")
    return()
  endif()
  cmake_parse_arguments(arg "" "CORPUS" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} sluice_options)
  if(SLUICE_FUZZ)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/fuzz/replay_main.cc)
    add_test(NAME ${name}_corpus COMMAND ${name} ${arg_CORPUS})
  endif()
endfunction()

# sluice_benchmark(NAME SOURCES a_bench.cc DEPS …): one Google Benchmark binary, never a test.
function(sluice_benchmark name)
  if(CMAKE_SYSTEM_NAME STREQUAL "WASI" OR SLUICE_FUZZ OR SLUICE_SANITIZE)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  find_package(benchmark REQUIRED)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} sluice_options benchmark::benchmark_main)
endfunction()
