#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and holds what comes out to what the kernels were written for:
#   - no kernel spills more than 8 bytes of registers;
#   - convolutions and stems are tensor-core code (HMMA; IMMA of integers) fed by asynchronous copies (LDGSTS).
# Needs nvcc 12.4 or newer, found as $NVCC or in PATH, and cuobjdump beside it.
#
#   scripts/check_cuda_build.sh [architecture…]    80 86 89 90 unless said otherwise
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=${NVCC:-$(command -v nvcc || true)}
[ -x "$nvcc" ] || { echo "check_cuda_build: no nvcc; set NVCC or PATH" >&2; exit 2; }
cuobjdump=$(dirname "$nvcc")/cuobjdump
[ "$#" -gt 0 ] || set -- 80 86 89 90
limit=8
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

failed=0
for source in csrc/cuda/kernels/launch_*.cu; do
  name=$(basename "$source" .cu)
  for arch; do
    cubin=$work/$name.$arch.cubin
    "$nvcc" -std=c++17 -O3 -Icsrc -gencode="arch=compute_$arch,code=sm_$arch" -Xptxas -v -cubin "$source" -o "$cubin" \
      2> "$work/log" || { cat "$work/log" >&2; exit 1; }
    # One line per kernel: registers, bytes of spilled stores, name.
    awk '/Function properties for/ { kernel = $NF }
         /spill stores/ { for (i = 2; i <= NF; ++i) if ($i == "bytes" && $(i + 1) == "spill" && $(i + 2) ~ /^stores/) spill = $(i - 1) }
         / Used [0-9]+ registers/ { for (i = 1; i < NF; ++i) if ($i == "Used") print $(i + 1), spill, kernel }' \
      "$work/log" > "$work/kernels"
    [ -s "$work/kernels" ] || { echo "check_cuda_build: $name, sm_$arch: no kernel" >&2; exit 1; }
    awk -v where="$name, sm_$arch" -v limit="$limit" '
      $1 > most { most = $1 }
      $2 > limit { print where ": " $3 " spills " $2 " bytes"; bad = 1 }
      END { printf "%s: %d kernels, at most %d registers\n", where, NR, most; exit bad }' "$work/kernels" || failed=1
    "$cuobjdump" -sass "$cubin" > "$work/sass"
    case $name in
      launch_conv_integer8) wanted="IMMA LDGSTS LDSM" ;;
      *) wanted="HMMA LDGSTS LDSM" ;;
    esac
    for instruction in $wanted; do
      if ! grep -q "$instruction" "$work/sass"; then
        echo "$name, sm_$arch: no $instruction"
        failed=1
      fi
    done
  done
done
exit $failed
