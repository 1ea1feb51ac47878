#!/bin/bash
# Cross-compile for aarch64 and run the C++ tests under user-mode emulation, where the machine at hand is another.
#
#     scripts/test_aarch64_emulated.sh [--python] SCRATCH_DIR
#
# SCRATCH_DIR keeps the build. A few minutes on one core. --python also builds the Python package, for the emulated
# Python of Debian 12 with numpy and safetensors from PyPI, and holds the shipped network against float64
# (scripts/check_shipped_network.py); some 200 MB more.
#
# Debian packages: g++-aarch64-linux-gnu qemu-user-static; CMake 3.20 or newer and Ninja. For --python: mmdebstrap, and
# pip and pybind11 in the Python that PYTHON names (python3). CXX: another cross compiler than aarch64-linux-gnu-g++.
set -euo pipefail

python=false
[[ ${1:-} == --python ]] && { python=true; shift; }
[[ $# -eq 1 ]] || { echo "usage: $0 [--python] SCRATCH_DIR" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1"
scratch=$(cd "$1" && pwd)
compiler=${CXX:-aarch64-linux-gnu-g++}

need() { command -v "$1" > /dev/null || { echo "$0: $1 is missing: install the Debian package $2" >&2; exit 2; }; }
need "$compiler" g++-aarch64-linux-gnu
need qemu-aarch64-static qemu-user-static
need cmake cmake
need ninja ninja-build

# Static programs need no libraries of the other architecture to be installed.
options=(-G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 "-DCMAKE_CXX_COMPILER=$compiler"
  -DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64-static -DCMAKE_EXE_LINKER_FLAGS=-static)
cmake -S "$root" -B "$scratch/build" "${options[@]}" -DFACEATTR_PYTHON=OFF -DFACEATTR_TESTS=ON
cmake --build "$scratch/build"
ctest --test-dir "$scratch/build" --output-on-failure
$python || exit 0

need mmdebstrap mmdebstrap
host=${PYTHON:-python3}
"$host" -m pip --version > /dev/null || { echo "$0: $host has no pip" >&2; exit 2; }
pybind11=$("$host" -m pybind11 --cmakedir) || { echo "$0: $host has no pybind11" >&2; exit 2; }

# Packages are unpacked, not installed: nothing of the other architecture runs outside the emulator.
debian=$scratch/debian
if [[ ! -e $debian/usr/bin/python3.11 ]]; then
  rm -rf "$debian"
  mmdebstrap --variant=extract --architectures=arm64 \
    --include=python3.11-minimal,libpython3.11-stdlib,libpython3.11-dev,libstdc++6 bookworm "$debian"
fi
site=$scratch/site
if [[ ! -e $site/safetensors ]]; then
  "$host" -m pip install --quiet --target "$site" --python-version 3.11 --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    numpy safetensors
fi
cat > "$scratch/python3" <<END
#!/bin/sh
exec qemu-aarch64-static -L "$debian" "$debian/usr/bin/python3.11" "\$@"
END
chmod +x "$scratch/python3"

# Debian's pyconfig.h includes another by a path below /usr/include.
cmake -S "$root" -B "$scratch/build-python" "${options[@]}" "-DPython_EXECUTABLE=$scratch/python3" \
  "-Dpybind11_DIR=$pybind11" "-DCMAKE_CXX_FLAGS=-idirafter $debian/usr/include"
cmake --build "$scratch/build-python"
rm -rf "$site/faceattr_fast"
cp -r "$root/python/faceattr_fast" "$site"
rm -f "$site"/faceattr_fast/_core*.so  # one of this machine, where the package was built in place
cp "$scratch"/build-python/_core*.so "$site/faceattr_fast"

# Threads of an emulated BLAS would mostly wait for each other.
export PYTHONPATH=$site OPENBLAS_NUM_THREADS=1
"$scratch/python3" "$root/scripts/check_shipped_network.py"
"$scratch/python3" -m faceattr_fast doctor
