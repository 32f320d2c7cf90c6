#!/usr/bin/env bash
# Installs what the comparison needs and `make build` does not: MooseFS and the programs that are run on the mounts. Only `make bench`
# calls it. Debian starts services when it installs them; none of MooseFS's is left running.
set -euo pipefail

packages=(moosefs-master moosefs-chunkserver moosefs-client moosefs-cli iproute2 git sqlite3)
daemons=(mfsmaster mfschunkserver)

missing=()
for package in "${packages[@]}"; do
  # Only what provides the program counts: git may come from elsewhere.
  case $package in git | sqlite3) command -v "$package" >/dev/null && continue ;; esac
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "bench: installing ${missing[*]}"
sudo=(); [ "$(id -u)" = 0 ] || sudo=(sudo)
# A MooseFS that runs already belongs to somebody: then nothing is stopped below.
running=$(for daemon in "${daemons[@]}"; do pgrep -x "$daemon" || true; done)

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod +x "$policy"
  trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

if [ -z "$running" ]; then
  for service in moosefs-master moosefs-chunkserver; do
    if command -v systemctl >/dev/null && systemctl is-enabled --quiet "$service" 2>/dev/null; then
      "${sudo[@]}" systemctl disable --now --quiet "$service"
    fi
  done
  for daemon in "${daemons[@]}"; do
    if pgrep -x "$daemon" >/dev/null; then
      echo "bench: the installation left $daemon running; stop its service before you measure" >&2
      exit 1
    fi
  done
fi
