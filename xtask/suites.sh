#!/usr/bin/env bash
# Installs the programs of others that `make test` runs on mounts: Debian packages, and the POSIX test suite pjdfstest and the file
# system exerciser fsx into the cache outside the tree (once per machine). Prints what goes in front of PATH. What
# CARIBOU_TEST_WITHOUT leaves out is not installed; `make demo` needs none of this.
set -euo pipefail
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
if wanted powercut; then packages+=(iproute2 nftables util-linux libfaketime); fi
./xtask/packages.sh "${packages[@]}"

# crate_program NAME RELEASE: installs a program from crates.io and prints its folder.
crate_program() {
  local root=$CARIBOU_CACHE/$1-$2
  if [ ! -x "$root/bin/$1" ]; then
    echo "suites: installing $1 $2 from crates.io (once per machine)" >&2
    local work
    work=$(mktemp -d)
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$work/target" \
      cargo install --quiet --locked --root "$work/root" --version "=$2" "$1" >&2
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
  folders+=("$(crate_program fsx "$(awk '$2 == "release" { print $3 }' chaos-tests/fsx.toml)")")
fi
(IFS=:; echo "${folders[*]}")
