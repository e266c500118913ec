#!/bin/sh
# First process of the user-mode Linux guest, whose root is the host's, read-only. What it is to be is in files:
#
#   $ORACLE_DIR/links     lines "vec0 NAME MAC MTU"
#   $ORACLE_DIR/sysctls   lines "ipv4/ip_forward 1", below /proc/sys/net; those that do not exist are passed over
#   $ORACLE_DIR/commands  for `ip -batch`
#   $ORACLE_DIR/echo      address and port to echo at, or nothing
#
# $ORACLE_HELPER is the test's own program: it loads modules (there may be no kmod here) and serves conversations.
set -eu
export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
trap 'echo "guest: its init ends"; sleep 1' EXIT

mount -t proc proc /proc
mount -t sysfs sys /sys

helper() {
  ORACLE_GUEST=$1 "$ORACLE_HELPER" --exact uml::guest --test-threads=1 --nocapture
}
helper modules

settings() {
  while read -r name value; do
    [ ! -e "/proc/sys/net/$name" ] || echo "$value" >"/proc/sys/net/$name"
  done <"$ORACLE_DIR/sysctls"
}
settings
while read -r device name mac mtu; do
  ip link set "$device" name "$name"
  ip link set "$name" address "$mac" mtu "$mtu"
  ethtool -K "$name" tx off sg off gro off >/dev/null 2>&1 || true
done <"$ORACLE_DIR/links"
ip -batch "$ORACLE_DIR/commands"
# Links that came with the commands have theirs only now.
settings

echo "guest: ready"
helper serve
