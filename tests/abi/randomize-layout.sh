#!/bin/sh
# Proves that none of our own types crosses the border in Rust's layout: builds the plugins with the fields of every
# Rust-laid-out struct shuffled and at another optimisation level, runs the tests of the loader on them, and holds ROME
# to the laws.
#
#     tests/abi/randomize-layout.sh [TARGET-FOLDER]
#
# Not part of every CI run: it compiles the dependencies a second time, and it needs RUSTC_BOOTSTRAP=1, since the
# shuffling is an unstable flag of the compiler. Run it when plugin-api/src/abi/ or the compiler's version changes.
set -eu
cd "$(dirname "$0")/../.."
target=${1:-target/randomized}

RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zrandomize-layout" CARGO_PROFILE_DEV_OPT_LEVEL=3 \
    cargo build --lib --target-dir "$target" -p engraft-minimal-plugin -p engraft-stress-plugin \
    -p engraft-rome

target=$(cd "$target" && pwd)
ENGRAFT_TEST_PLUGIN="$target/debug/libengraft_minimal_plugin.so" ENGRAFT_TEST_STRESS="$target/debug/libengraft_stress.so" \
    cargo test -p engraft-tests -p engraft-minimal-plugin -p engraft-stress-plugin plugins
ENGRAFT_TEST_PLUGIN="$target/debug/libengraft_rome.so" ENGRAFT_TEST_STRESS="$target/debug/libengraft_stress.so" \
    cargo test -p engraft-tests -p engraft-minimal-plugin -p engraft-stress-plugin -- \
    a_plugin_of_the_environment_keeps_the_laws every_fault_has_its_code
