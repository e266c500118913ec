# shellcheck shell=bash
# The steps of .ci/test. Sourced, not run.

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed_steps=()
passed=0 failed=0 skipped=0

# How to become root: nothing, sudo, or no way.
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  as_root=(false)
fi
# A plain root shell of Debian's has these; `su` without a dash has not.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }

# step NAME COMMAND…: runs it, says how long it took, remembers whether it failed.
step() {
  local name=$1 start=$SECONDS failed_before=$failed
  shift
  say "==> $name"
  if "$@"; then
    say "    $name: ok, $((SECONDS - start)) s"
  else
    say "    $name: FAILED, $((SECONDS - start)) s"
    failed_steps+=("$name")
    # What fails without a failed test (a lint, a build) must show in the total too.
    [ "$failed" != "$failed_before" ] || failed=$((failed + 1))
  fi
}

prepare_toolchain() {
  if ! command -v cargo >/dev/null && [ -r "${HOME:-}/.cargo/env" ]; then
    # shellcheck disable=SC1091
    source "$HOME/.cargo/env"
  fi
  if ! command -v cargo >/dev/null; then
    say "error: no cargo. Install Rust 1.95 or newer from https://rustup.rs, then run this again." >&2
    exit 1
  fi
  local part
  for part in fmt clippy; do
    if ! cargo "$part" --version >/dev/null 2>&1; then
      rustup component add "${part/fmt/rustfmt}"
    fi
  done
}

# Debian package, and a file or command that shows it is there already. What for:
packages='
gcc             cc                              to link
libc6-dev       /usr/include/stdio.h            to link
iproute2        ip                              namespaces, links, routes
ethtool         ethtool                         offloads and queues of veths
tshark          tshark                          a second opinion on what leaves
nftables        nft                             policy of host endpoints; masquerade, for the kernel as the judge of ours
conntrack       conntrack                       what the kernel tracks, looked at and forgotten
user-mode-linux linux.uml                       a kernel that has IPIP, where this one has not
qemu-system-x86 qemu-system-x86_64              the kernel of Debian 12, for tests of what this one has not
busybox-static  /usr/share/doc/busybox-static   the same, until it sees the files here
kmod            depmod                          the same: its modules
bpftool         bpftool                         programs and links, looked at from outside
clang           clang                           XDP programs, compiled anew and compared
llvm            llvm-strip                      the same
libbpf-dev      /usr/include/bpf/bpf_helpers.h  the same
make            make                            the feature afxdp
libelf-dev      /usr/include/libelf.h           the feature afxdp
groff-base      groff                           manual pages, read for mistakes
iputils-ping    ping                            traffic of pods in namespaces
zlib1g-dev      /usr/include/zlib.h             the feature afxdp
pkg-config      pkg-config                      the feature afxdp
'

install_packages() {
  local missing=() package witness
  while read -r package witness _; do
    [ -n "$package" ] || continue
    if [[ $witness == /* ]]; then
      [ -e "$witness" ] || missing+=("$package")
    else
      command -v "$witness" >/dev/null || missing+=("$package")
    fi
  done <<<"$packages"
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null || [ "${as_root[*]}" = false ]; then
    say "warning: cannot install ${missing[*]} (Debian's names): no apt-get, or neither root nor sudo. Tests that need them will say so." >&2
    return 0
  fi
  say "==> installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
  # Asked by wireshark-common, which tshark needs.
  if command -v debconf-set-selections >/dev/null; then
    say 'wireshark-common wireshark-common/install-setuid boolean false' | "${as_root[@]}" debconf-set-selections
  fi
  if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; }; then
    notice "not all of ${missing[*]} could be installed; tests that need them say so"
  fi
}

# The kernels that users run, for tests in virtual machines: unpacked where they look, whatever the target directory, and not
# installed, which would make one of them this machine's.
fetch_debian_kernels() {
  [ ! -e target/debian-kernel ] || [ ! -e target/debian-kernel-backports ] || return 0
  if ! command -v apt-get >/dev/null; then
    notice "no kernels of Debian's: no apt-get; tests that need them say so"
    return 0
  fi
  if [ ! -e target/debian-kernel ]; then
    # Old lists name packages that are not there any more.
    [ "${as_root[*]}" = false ] || "${as_root[@]}" apt-get -qq update || true
    fetch_kernel debian-kernel 6.1
  fi
  [ -e target/debian-kernel-backports ] || fetch_backports_kernel
}

# The backports' lists are of no use to this machine, and kept from it.
fetch_backports_kernel() {
  local apt=$logs/apt mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' 2>/dev/null | head -n 1) || true
  if [ -z "$mirror" ]; then
    notice "no kernel of Debian 12's backports: apt-get does not know Debian 12 here; tests that need it say so"
    return 0
  fi
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  say "deb $mirror bookworm-backports main" >"$apt/sources.list"
  local own=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache")
  if apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 "${own[@]}" update; then
    fetch_kernel debian-kernel-backports 6.12 "${own[@]}"
  else
    notice "no kernel of Debian 12's backports: their lists could not be fetched from $mirror; tests that need it say so"
  fi
}

# fetch_kernel DIRECTORY VERSION [OPTION OF APT'S]…
fetch_kernel() {
  local to=target/$1 version=$2 new package
  shift 2
  package=$(apt-cache "$@" depends linux-image-amd64 2>/dev/null | sed -n "s/^ *Depends: \(linux-image-${version//./\\.}\..*\)/\1/p" | head -n 1) || true
  if [ -z "$package" ]; then
    notice "no kernel $version of Debian's: apt-get does not know it here; tests that need it say so"
    return 0
  fi
  say "==> fetching $package"
  mkdir -p target
  new=$(mktemp -d -p target debian-kernel.XXXXXX)
  # By the caller: apt's own user may not write here.
  if (cd "$new" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@" download "$package") &&
    dpkg-deb --extract "$new/$package"_*.deb "$new/root" && depmod -b "$new/root" "${package#linux-image-}"; then
    mv "$new/root" "$to"
  else
    notice "$package was not fetched and unpacked; tests that need it say so"
  fi
  rm -rf "$new"
}

# Licences, sources and bans; advisories need the database, which cargo-deny fetches.
# Without cargo-deny the licences and sources are still checked, by control/tests/repository, and the rest is not.
check_dependencies() {
  if ! cargo deny --version >/dev/null 2>&1; then
    notice "advisories and bans NOT checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
    return 0
  fi
  local deny=(cargo deny --locked --all-features --config .ci/deny.toml check --hide-inclusion-graph)
  "${deny[@]}" bans licenses sources || return 1
  if ! "${deny[@]}" advisories 2>&1 | tee "$logs/advisories"; then
    if grep -qi 'failed to fetch advisory' "$logs/advisories"; then
      notice "advisories NOT checked: the database could not be fetched"
      return 0
    fi
    return 1
  fi
}

# The main job as README.md has it, all of it at its full size. Tests run the same with less data.
run_demo() {
  if ! cargo run --release --locked --quiet -- demo "$@" >"$logs/demo" 2>&1; then
    grep -v '^PASS ' "$logs/demo" || true
    return 1
  fi
  tail -n 1 "$logs/demo"
  passed=$((passed + 1))
}

test_docs() {
  local status=0
  cargo test --workspace --locked --quiet --doc >"$logs/doc" 2>&1 || status=1
  # Most crates have none.
  grep -vE '^$|^running 0 tests|: ok. 0 passed' "$logs/doc" || true
  count_libtest "$logs/doc"
  return $status
}

# run_tests ARGUMENTS…: unit and integration tests, as root where that is possible.
run_tests() {
  local status=0 said
  said=$(mktemp -p "$logs")
  if [ "$(id -u)" != 0 ] && [ "${as_root[*]}" != false ]; then
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
    export "CARGO_TARGET_${triple}_RUNNER=$PWD/.ci/as-root"
  fi
  if cargo nextest --version >/dev/null 2>&1; then
    # Where nextest puts it, whatever the target directory.
    local junit=target/nextest/ci/junit.xml
    rm -f "$junit"
    cargo nextest run --locked --profile ci --no-fail-fast "$@" 2>&1 | tee "$logs/tests" || status=1
    count_nextest "$logs/tests"
    note_flaky "$logs/tests"
    [ ! -e "$junit" ] || sed 's/&gt;/>/g; s/&lt;/</g; s/&quot;/"/g; s/&apos;/'"'"'/g; s/&amp;/\&/g' "$junit" >"$said"
  else
    if [ "$1" = --workspace ]; then
      run_libtest "$said" "$@" --lib --bins -- --show-output || status=1
      set -- "$@" --test '*'
    fi
    # One at a time: real links and sockets, with deadlines of their own.
    run_libtest "$said" "$@" -- --show-output --test-threads=1 || status=1
  fi
  note_skipped "$said"
  return $status
}

# run_libtest LOG ARGUMENTS…: cargo test, for where nextest is not installed.
run_libtest() {
  local log=$1 status=0
  shift
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$logs/tests" | without_output_of_passed || status=1
  count_libtest "$logs/tests"
  cat "$logs/tests" >>"$log"
  return $status
}

# What only a feature builds: the afxdp crate brings libbpf's C. Its own build, so that the tests of the workspace are of what is shipped.
test_features() {
  cargo clippy -p fastpath --features afxdp --all-targets --locked --quiet -- -D warnings || return 1
  cargo clippy -p control --no-default-features --all-targets --locked --quiet -- -D warnings || return 1
  run_tests -p fastpath --features afxdp --test packet_io
}

# What only loom's cfg builds; in a directory of its own, since the flag changes every crate.
test_interleavings() {
  local RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
  export RUSTFLAGS CARGO_TARGET_DIR
  run_tests -p fastpath --release --test loom_snapshot || return 1
  run_tests -p flowtable --release --test loom_flow
}

# Leaves out what passed tests printed (it is read for SKIPPED lines).
without_output_of_passed() {
  awk '/^successes:$/ { quiet = 1 } /^(test result:|failures:)/ { quiet = 0 } !quiet { print; fflush() }'
}

# count_libtest LOG: adds the "test result:" lines.
count_libtest() {
  local p f
  read -r p f < <(awk '
    /^test result:/ { for (n = 2; n <= NF; n++) { if ($n ~ /^passed/) p += $(n-1); if ($n ~ /^failed/) f += $(n-1) } }
    END { print p + 0, f + 0 }' "$1")
  passed=$((passed + p)) failed=$((failed + f))
}

# count_nextest LOG: adds "Summary [   1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 2 skipped".
# What it calls skipped are parts of other tests, which run them themselves (#[ignore = "run … by …"]).
count_nextest() {
  local p f
  read -r p f < <(awk '
    /^ *Summary \[/ { p = f = 0
      for (n = 2; n <= NF; n++) {
        if ($n ~ /^passed/) p = $(n-1)
        if ($n ~ /^(failed|timed)/ || ($n == "exec" && $(n+1) ~ /^failed/)) f += $(n-1)
      } }
    END { print p + 0, f + 0 }' "$1")
  passed=$((passed + p)) failed=$((failed + f))
}

# note_flaky LOG: tests that passed at their second try are counted as passed, and said.
note_flaky() {
  local name
  while read -r name; do
    notice "failed once, then passed: $name"
  done < <(awk '/^ *Summary \[/ { last = 1 } last && $1 == "FLAKY" { sub(/^ *FLAKY[^\]]*\] *(\([ 0-9\/]*\) *)?/, ""); print }' "$1")
}

# note_skipped LOG: a test that skips itself says "SKIPPED <test>: <reason>" and is counted as passed by its runner.
note_skipped() {
  [ -e "$1" ] || return 0
  local count
  count=$(grep -oE 'SKIPPED [A-Za-z0-9_:]+: .*' "$1" | sort -u | tee -a "$logs/skipped" | wc -l) || true
  passed=$((passed - count)) skipped=$((skipped + count))
}

# Something to be said again at the end.
notice() { say "    $*" | tee -a "$logs/notices"; }

finish() {
  say
  if [ -s "$logs/skipped" ]; then
    say "Skipped here:"
    sort "$logs/skipped" | sed 's/^/  /'
  fi
  [ ! -s "$logs/notices" ] || sed 's/^ */Notice: /' "$logs/notices"
  [ ${#failed_steps[@]} -eq 0 ] || say "Failed steps: ${failed_steps[*]}"
  say "Took $((SECONDS / 60)) min $((SECONDS % 60)) s."
  say "$passed passed, $failed failed, $skipped skipped"
  [ ${#failed_steps[@]} -eq 0 ]
}
