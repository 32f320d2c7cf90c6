#!/usr/bin/env bash
# Installs the programs of others that `make test` runs on mounts: Debian packages, and the POSIX test suite pjdfstest and the file
# system exerciser fsx into the cache outside the tree (once per machine). Prints what goes in front of PATH. What
# CARIBOU_TEST_WITHOUT leaves out is not installed; `make demo` needs none of this.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

: "${CARIBOU_CACHE:=$HOME/.cache/caribou}"
without=",${CARIBOU_TEST_WITHOUT:-},"

# Whether a program is to be run at all; all of them need mounts.
wanted() {
  case $without in *,fuse,* | *,"$1",*) return 1 ;; esac
}

packages=()
for program in fio stress-ng sqlite3 git; do
  if wanted "$program"; then packages+=("$program"); fi
done
# Hosts of `caribou-chaos run`, and clocks that jump.
if wanted powercut; then packages+=(iproute2 nftables util-linux libfaketime gcc); fi
./xtask/packages.sh "${packages[@]}"

# source_of NAME RELEASE: fetches a crate from crates.io and prints the folder with its source.
source_of() {
  mkdir -p fetch/src
  : > fetch/src/lib.rs
  printf '[package]\nname = "fetch"\nedition = "2021"\n[dependencies]\n%s = "=%s"\n' "$1" "$2" > fetch/Cargo.toml
  (cd fetch && cargo vendor --quiet > /dev/null)
  echo "fetch/vendor/$1"
}

# crate_program NAME RELEASE [PATCH]: installs a program from crates.io, changed if need be, and prints its folder.
crate_program() {
  local root=$CARIBOU_CACHE/$1-$2 patch=${3:+$PWD/$3}
  if [ -n "$patch" ]; then root+=-$(sha256sum < "$patch" | cut -c 1-8); fi
  if [ ! -x "$root/bin/$1" ]; then
    echo "suites: installing $1 $2 from crates.io (once per machine)" >&2
    local work
    work=$(mktemp -d)
    cp rust-toolchain.toml "$work"
    (
      cd "$work"
      unset ROCKSDB_LIB_DIR ROCKSDB_STATIC
      export CARGO_TARGET_DIR="$work/target"
      what=(--version "=$2" "$1")
      if [ -n "$patch" ]; then
        source=$(source_of "$1" "$2")
        # Not as part of a repository around it, whose other files it would skip.
        GIT_CEILING_DIRECTORIES=$work git -C "$source" apply "$patch"
        what=(--path "$source")
      fi
      cargo install --quiet --locked --root "$work/root" "${what[@]}" >&2
    )
    # Into place last, so that an interrupted run starts again.
    mkdir -p "$CARIBOU_CACHE"
    rm -rf "$root" "$root.new"
    cp -r "$work/root" "$root.new"
    mv "$root.new" "$root"
    rm -rf "$work"
  fi
  echo "$root/bin"
}

# The releases that the lists of what is expected are for.
folders=()
if wanted pjdfstest; then
  folders+=("$(crate_program pjdfstest "$(awk '$1 == "version" { print $2 }' chaos-tests/pjdfstest-expected.txt)")")
fi
if wanted fsx; then
  folders+=("$(crate_program fsx "$(awk '$2 == "release" { print $3 }' chaos-tests/fsx.toml)" chaos-tests/fsx.patch)")
fi
(IFS=:; echo "${folders[*]}")
