# shellcheck shell=bash
# What plain-sequence and lazy-sequence have in common: a box of drover's, taken from its node and made again at
# another one with criu, rsync and ssh. What can be made ready before the dump is, as drover does: layer, cable, directories.

run=/run/plain
devices=(null zero full tty random urandom)

prepare() { # NAME BASE LAYERS: the destination's outside parts, before the freeze
  local name=$1 base=$2 layers=$3 i=0 lower='' layer
  mkdir -p $run/private/upper $run/private/work $run/root $run/img /sys/fs/cgroup/plain-"$name"
  for layer in $layers; do
    mkdir -p $run/layer$i $run/lower$i
    mount -t erofs -o ro,directio /var/lib/drover/layers/sha256/"$layer".erofs $run/layer$i
    mount --bind -o X-mount.idmap=b:0:"$base":65536 $run/layer$i $run/lower$i
    lower=$run/lower$i${lower:+:$lower}
    i=$((i + 1))
  done
  printf '%s' "$lower" >$run/lower
  ip link add plain0 type veth peer name plain1
  ip link set plain0 master br0
}

restore() { # NAME BASE [OPTION...]: with those of criu restore
  local name=$1 base=$2 external=() device pid
  shift 2
  for device in "${devices[@]}"; do external+=(--external "mnt[dev-$device]:/dev/$device"); done
  mkdir -p $run/mapped
  mount --bind -o X-mount.idmap=b:0:"$base":65536 $run/private $run/mapped
  python3 - "$base" "$(cat $run/lower)" <<'PYTHON'
import ctypes, os, sys
base, lower = int(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(28, 0x14, 0, 0, 0)  # PR_SET_SECUREBITS: KEEP_CAPS, NO_SETUID_FIXUP
os.setresgid(base, base, base)
os.setresuid(base, base, base)
options = f"lowerdir={lower},upperdir=/run/plain/mapped/upper,workdir=/run/plain/mapped/work,xino=on,index=on,nfs_export=on"
if libc.mount(b"overlay", b"/run/plain/root", b"overlay", 0, options.encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
PYTHON
  chown -R 0:"$base" $run/img && chmod -R g+rX $run/img
  (
    echo $BASHPID >/sys/fs/cgroup/plain-"$name"/cgroup.procs
    exec criu restore -d -D $run/img -o restore.log --tcp-established --file-locks --link-remap \
      --manage-cgroups=ignore --network-lock nftables --root $run/root --external "netdev[eth0]:plain1" \
      "${external[@]}" "$@" --pidfile $run/img/pid
  )
  ip link set plain0 up
  pid=$(cat $run/img/pid)
  # It asked for addresses while its cable was shut, and would ask again only a second later.
  nsenter -t "$pid" -n ip neigh flush dev eth0
  # The first frame from here tells the switch where the box is now.
  nsenter -t "$pid" -n ping -c 1 -W 1 10.77.0.250 >/dev/null || :
}

describe() { # NAME: sets $base, $pid, $layers, $host_end and the dump's $external
  local show device
  show=$(drover-node --json box show "$1")
  base=$(jq -r .id_base <<<"$show") pid=$(jq -r .pid <<<"$show") host_end=$(jq -r .host_end <<<"$show")
  layers=$(jq -r '.layers[] | ltrimstr("sha256:")' <<<"$show" | paste -sd' ')
  external=(--external "veth[eth0]:$host_end")
  for device in "${devices[@]}"; do external+=(--external "mnt[/dev/$device]:dev-$device"); done
  mkdir -p $run/img
}

sync_layer() { # NAME NODE
  rsync -aHAXS --numeric-ids --delete --filter='-x trusted.overlay.*' /var/lib/drover/boxes/"$1"/private/upper "$2":$run/private/
}

dump() { # OPTION...: of the box that was described
  # Off the bridge: while the kernel takes a dead box's network namespace away, it would answer clients with a reset (seen
  # on a busy machine), and a frozen one would still answer for its address.
  ip link set "$host_end" nomaster
  criu dump -t "$pid" -D $run/img -o dump.log --tcp-established --file-locks --link-remap --manage-cgroups=ignore \
    --network-lock nftables --ghost-limit 1G "${external[@]}" "$@"
}

remote() { # NODE OPTION...: of this script, over there
  local node=$1
  shift
  # shellcheck disable=SC2029 # it is this side that knows the names
  ssh "$node" "$(realpath "$0") ${*@Q}"
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }
