#!/usr/bin/env bash
# One MooseFS 3 on this machine, to compare with: a master, three chunk servers, a mount. Everything but the mount point lies below ROOT.
#
#   moosefs.sh up ROOT MOUNT       fresh; SYNCED=1: CHANGELOG_SAVE_MODE = 2 and HDD_FSYNC_BEFORE_CLOSE = 1, else as Debian ships it
#   moosefs.sh goal COPIES DIR     copies of what will be made in a directory of the mount, and no trash (Caribou has none)
#   moosefs.sh down                stops everything that the last `up` started, also after a crash; ROOT stays, to be looked at or removed
#
# A master refuses chunk servers that come from loopback, so all of them live in a network namespace of their own with a dummy device.
# Processes are ended by the pids that they wrote down.
set -euo pipefail

namespace=caribou-bench
device=bench0
state=/run/caribou-bench.moosefs # ROOT and MOUNT of the last `up`
master=10.77.0.1
servers=3
patience=300 # tenths of a second

fail() { echo "moosefs.sh: $*" >&2; exit 1; }
inside() { nsenter --net="/run/netns/$namespace" -- "$@"; }
address() { echo "10.77.0.1$1"; }

# Calls its arguments until they succeed.
wait_for() {
  local what=$1; shift
  for _ in $(seq "$patience"); do "$@" && return 0; sleep 0.1; done
  fail "no $what within $((patience / 10)) seconds"
}

make_namespace() {
  ip netns add "$namespace"
  ip -n "$namespace" link set lo up
  # A bridge without ports does as well where the kernel has no dummy device.
  ip -n "$namespace" link add "$device" type dummy 2>/dev/null || ip -n "$namespace" link add "$device" type bridge
  ip -n "$namespace" link set "$device" up
  ip -n "$namespace" addr add "$master/24" dev "$device"
  for i in $(seq "$servers"); do ip -n "$namespace" addr add "$(address "$i")/24" dev "$device"; done
}

write_configs() {
  local root=$1 save_mode='' sync=''
  if [ "${SYNCED:-0}" = 1 ]; then save_mode='CHANGELOG_SAVE_MODE = 2'; sync='HDD_FSYNC_BEFORE_CLOSE = 1'; fi
  mkdir -p "$root/etc" "$root/master"
  echo '* / rw,alldirs,admin,maproot=0:0' > "$root/etc/exports.cfg"
  : > "$root/etc/topology.cfg"
  cat > "$root/etc/master.cfg" <<CFG
WORKING_USER = mfs
DATA_PATH = $root/master
EXPORTS_FILENAME = $root/etc/exports.cfg
TOPOLOGY_FILENAME = $root/etc/topology.cfg
MATOML_LISTEN_HOST = $master
MATOCS_LISTEN_HOST = $master
MATOCL_LISTEN_HOST = $master
$save_mode
CFG
  cp /var/lib/mfs/metadata.mfs.empty "$root/master/metadata.mfs"
  chown -R mfs:mfs "$root/master"
  for i in $(seq "$servers"); do
    mkdir -p "$root/chunk$i/state" "$root/chunk$i/data"
    echo "$root/chunk$i/data" > "$root/etc/disks$i.cfg"
    cat > "$root/etc/chunk$i.cfg" <<CFG
WORKING_USER = mfs
DATA_PATH = $root/chunk$i/state
HDD_CONF_FILENAME = $root/etc/disks$i.cfg
MASTER_HOST = $master
BIND_HOST = $(address "$i")
CSSERV_LISTEN_HOST = $(address "$i")
CSSERV_LISTEN_PORT = 9422
MASTER_RECONNECTION_DELAY = 1
$sync
CFG
    chown -R mfs:mfs "$root/chunk$i"
  done
  # Daemons that gave up root have to reach their folders.
  chmod 755 "$root"
}

start() {
  local log=$1; shift
  inside "$@" start > "$log" 2>&1 || { cat "$log" >&2; fail "$1 did not start"; }
}

all_registered() {
  [ "$(inside mfscli -H "$master" -p -SCS -s '|' 2>/dev/null | grep -c '10\.77\.0\.1[0-9]')" -ge "$servers" ]
}

is_mounted() { grep -qs " $1 fuse" /proc/mounts; }

# Chunk servers take new chunks only some seconds after they have registered.
writes_work() { mkdir -p "$1/.probe" && goal "$servers" "$1/.probe" && echo ok 2>/dev/null > "$1/.probe/file" && sync "$1/.probe/file" 2>/dev/null; }

goal() {
  inside mfssetgoal -r "$1" "$2" >/dev/null && inside mfssettrashtime -r 0 "$2" >/dev/null
}

up() {
  local root=$1 mount=$2
  [ ! -e "$root" ] || fail "$root is there already"
  # What a crashed run left in the namespace.
  down
  printf '%s\n' "$root" "$mount" > "$state"
  make_namespace
  write_configs "$root"
  start "$root/master.log" mfsmaster -c "$root/etc/master.cfg"
  for i in $(seq "$servers"); do start "$root/chunk$i.log" mfschunkserver -c "$root/etc/chunk$i.cfg"; done
  wait_for "registration of $servers chunk servers" all_registered
  # In the foreground of a session of its own, so that its pid is known and Ctrl-C does not reach it.
  setsid nsenter --net="/run/netns/$namespace" -- mfsmount -f "$mount" -H "$master" > "$root/mount.log" 2>&1 &
  echo $! > "$root/mount.pid"
  wait_for "mount at $mount" is_mounted "$mount"
  wait_for "write of $servers copies" writes_work "$mount"
  rm -r "$mount/.probe"
}

# Ends one daemon of MooseFS and its children. Nothing of it is kept, so nobody is given time to save anything.
end() {
  local pid children
  pid=$(tr -dc 0-9 < "$1")
  is_ours "$pid" || return 0
  children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
  # A process that ended in between is what is wanted.
  for one in $pid $children; do kill -KILL "$one" 2>/dev/null || true; done
  for one in $pid $children; do wait_for "end of process $one" is_gone "$one"; done
}

# A pid that was used again belongs to somebody else.
is_ours() { [ -n "$1" ] && grep -qs '^mfs' "/proc/$1/comm"; }

# A zombie is gone, whenever it is reaped.
is_gone() { ! is_ours "$1" || grep -qs '^State:.Z' "/proc/$1/status"; }

down() {
  local root mount
  if [ -e "$state" ]; then
    { read -r root; read -r mount; } < "$state"
    # Never looked at with stat: a mount whose master is dead hangs.
    if is_mounted "$mount"; then timeout 10 umount "$mount" 2>/dev/null || umount -l "$mount"; fi
    for pid in "$root/mount.pid" "$root"/chunk*/state/.mfschunkserver.lock "$root/master/.mfsmaster.lock"; do
      if [ -e "$pid" ]; then end "$pid"; fi
    done
    rm "$state"
  fi
  if [ -e "/run/netns/$namespace" ]; then ip netns del "$namespace"; fi
}

[ "$(id -u)" = 0 ] || fail 'namespaces and mounts need root'
case ${1:-} in
  up) up "$2" "$3" ;;
  goal) goal "$2" "$3" ;;
  down) down ;;
  *) fail 'usage: moosefs.sh up ROOT MOUNT | goal COPIES DIR | down' ;;
esac
