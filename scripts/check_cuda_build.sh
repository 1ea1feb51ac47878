#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and holds what comes out to what the kernels were written for:
#   - no kernel spills more than 8 bytes of registers;
#   - convolutions and stems are tensor-core code (HMMA; IMMA of integers) fed by asynchronous copies (LDGSTS);
#   - those of hopper/, for sm_90a, are warpgroup products (HGMMA) fed by bulk copies (UBLKCP), and the compiler makes
#     no product wait for the one before it ("serialized").
# Needs nvcc 12.4 or newer, found as $NVCC or in PATH, and cuobjdump beside it.
#
#   scripts/check_cuda_build.sh [architecture…]    80 86 89 90 90a unless said otherwise
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=${NVCC:-$(command -v nvcc || true)}
[ -x "$nvcc" ] || { echo "check_cuda_build: no nvcc; set NVCC or PATH" >&2; exit 2; }
cuobjdump=$(dirname "$nvcc")/cuobjdump
[ -x "$cuobjdump" ] || { echo "check_cuda_build: no cuobjdump beside $nvcc" >&2; exit 2; }
[ "$#" -gt 0 ] || set -- 80 86 89 90 90a
limit=8
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

failed=0
check() {  # source, architecture, instructions…
  local source=$1 arch=$2
  local name cubin=$work/$arch.cubin
  name=$(basename "$source" .cu)
  shift 2
  "$nvcc" -std=c++17 -O3 -fmad=false -Icsrc -gencode="arch=compute_$arch,code=sm_$arch" -Xptxas -v -cubin "$source" \
    -o "$cubin" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
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
  if grep 'serialized' "$work/log"; then failed=1; fi
  "$cuobjdump" -sass "$cubin" > "$work/sass"
  local instruction
  for instruction; do
    if ! grep -q "$instruction" "$work/sass"; then
      echo "$name, sm_$arch: no $instruction"
      failed=1
    fi
  done
}

for arch; do
  if [ "$arch" = 90a ]; then
    for source in csrc/cuda/hopper/launch_*.cu; do check "$source" "$arch" HGMMA UBLKCP; done
    continue
  fi
  for source in csrc/cuda/kernels/launch_*.cu; do
    case $source in
      *integer8*) check "$source" "$arch" IMMA LDGSTS LDSM ;;
      *) check "$source" "$arch" HMMA LDGSTS LDSM ;;
    esac
  done
done
exit $failed
