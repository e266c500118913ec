#!/bin/sh
# Compiles the BPF programs: xdp/build.sh [OUTPUT_DIR]   (default: beside the sources)
#
# Needs clang, llvm-strip and libbpf's headers (Debian: clang llvm libbpf-dev). The objects are committed, so
# only a change of the C sources needs this. The same clang gives the same bytes wherever it runs: no path of
# the machine gets into an object, and DWARF is stripped (BTF, which the loader needs, stays).
set -eu
cd "$(dirname "$0")"
out=${1:-.}
for program in nic pod flow; do
    clang -O2 -g -Wall -Wextra -Werror -target bpf -fdebug-compilation-dir=. \
        -I"/usr/include/$(uname -m)-linux-gnu" -c "$program.bpf.c" -o "$out/$program.bpf.o"
    llvm-strip -g "$out/$program.bpf.o"
done
