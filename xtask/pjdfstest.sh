#!/usr/bin/env bash
# Installs the POSIX test suite pjdfstest, in the release that chaos-tests/pjdfstest-expected.txt is for, into the cache outside the
# tree (once per machine). Prints the program's path. Run by `make pjdfstest`.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${CARIBOU_CACHE:=$HOME/.cache/caribou}"
version=$(awk '$1 == "version" { print $2 }' chaos-tests/pjdfstest-expected.txt)
root=$CARIBOU_CACHE/pjdfstest-$version
if [ ! -x "$root/bin/pjdfstest" ]; then
  echo "pjdfstest: installing release $version from crates.io (once per machine)" >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$work/target" \
    cargo install --quiet --locked --root "$work/root" --version "=$version" pjdfstest >&2
  # Into place last, so that an interrupted run starts again.
  mkdir -p "$CARIBOU_CACHE"
  rm -rf "$root" "$root.new"
  cp -r "$work/root" "$root.new"
  mv "$root.new" "$root"
fi
echo "$root/bin/pjdfstest"
