#!/usr/bin/env bash
# Sets a Debian 12 machine up for Caribou: missing packages, and librocksdb compiled once into a cache outside the tree.
# Run by every make target; does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${ROCKSDB_LIB_DIR:=$HOME/.cache/caribou/rocksdb}"
: "${CARGO_TARGET_DIR:=$HOME/.cache/caribou/target}"

# git and sqlite3 are for tests of the harness that need no mount.
./xtask/packages.sh g++ make libclang-dev fuse3 e2fsprogs python3 git sqlite3

if ! command -v cargo-nextest >/dev/null; then
  echo 'setup: installing cargo-nextest (once per machine)'
  env -u ROCKSDB_LIB_DIR CARGO_TARGET_DIR="$CARGO_TARGET_DIR/tools" cargo install --quiet --locked cargo-nextest
fi

# librocksdb: keyed by the locked version; features as in Cargo.toml.
version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/[" ]/, ""); sub(/version=/, ""); print; exit }' Cargo.lock)
stamp="$ROCKSDB_LIB_DIR/version"
if [ "$(cat "$stamp" 2>/dev/null)" != "$version lz4" ]; then
  echo "setup: compiling librocksdb $version (once per machine, about ten minutes)"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/src"
  : > "$work/src/lib.rs"
  cat > "$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-cache"
version = "0.0.0"
edition = "2021"

[dependencies]
librocksdb-sys = { version = "=${version%+*}", default-features = false, features = ["lz4", "bindgen-runtime"] }
TOML
  (cd "$work" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$work/target" cargo build --release --quiet)
  mkdir -p "$ROCKSDB_LIB_DIR"
  # Into place last, so that an interrupted run starts again.
  find "$work/target" -name librocksdb.a -exec cp {} "$ROCKSDB_LIB_DIR/librocksdb.a.new" \;
  mv "$ROCKSDB_LIB_DIR/librocksdb.a.new" "$ROCKSDB_LIB_DIR/librocksdb.a"
  echo "$version lz4" > "$stamp"
fi
