#!/bin/bash
# Run the C++ tests on an emulated CPU with AVX-512, where the machine at hand has none.
#
#     scripts/test_avx512_emulated.sh SCRATCH_DIR
#
# SCRATCH_DIR keeps the build, the boot image and the logs. Exits non-zero unless every test passed with AVX-512 F, BW,
# DQ and VL at hand, and VNNI where CPU is not set. That takes one core for five to ten minutes, and is no part of the normal test run. Meanwhile the
# emulator offers its blank screen by VNC, without a password, on port 5900 or the next free one.
#
# Debian packages: bochs bochsbios busybox-static cpio isolinux syslinux-common vgabios xorriso, and a kernel,
# linux-image-cloud-amd64. Any other x86-64 kernel with a serial console will do: KERNEL=path/to/vmlinuz, for example
# out of `apt-get download linux-image-VERSION-cloud-amd64` and `dpkg -x`. LIMIT: seconds before giving up (1800). CPU:
# the model that Bochs emulates (corei7_icelake_u, which has AVX512-VNNI too; none of Bochs 2.7 has AVX512-BF16).
set -euo pipefail

[[ $# -eq 1 ]] || { echo "usage: $0 SCRATCH_DIR" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1"
scratch=$(cd "$1" && pwd)
kernel=${KERNEL:-$(ls /boot/vmlinuz-*-cloud-amd64 2>/dev/null | sort -V | tail -1 || true)}
# All but those of CUDA's kernels, which know nothing of AVX-512 and emulate a GPU, slowly enough as it is.
mapfile -t tests < <(cd "$root/csrc/tests" && basename -s .cc test_*.cc | grep -v "^test_cuda_")

need() { [[ -e $1 ]] || { echo "$0: ${1:-a kernel image} is missing: install the Debian package $2" >&2; exit 2; }; }
for tool in bochs cpio xorriso; do need /usr/bin/$tool $tool; done
need /usr/share/bochs/BIOS-bochs-latest bochsbios
need /usr/share/bochs/VGABIOS-lgpl-latest vgabios
need /usr/bin/busybox busybox-static
need /usr/lib/ISOLINUX/isolinux.bin isolinux
need /usr/lib/syslinux/modules/bios/ldlinux.c32 syslinux-common
need "$kernel" "linux-image-cloud-amd64, or set KERNEL"

cmake -S "$root" -B "$scratch/build" -DFACEATTR_PYTHON=OFF -DFACEATTR_TESTS=ON -DCMAKE_EXE_LINKER_FLAGS=-static
cmake --build "$scratch/build" --target "${tests[@]}"

# The system in the emulator: a shell and the tests, all static.
rm -rf "$scratch/initrd" "$scratch/iso"
mkdir -p "$scratch/initrd/proc" "$scratch/iso"
cp /usr/bin/busybox "${tests[@]/#/$scratch/build/csrc/tests/}" "$scratch/initrd"
cat > "$scratch/initrd/init" <<EOF
#!/busybox sh
/busybox mount -t proc proc /proc
/busybox grep -E -m 2 "^(model name|flags)" /proc/cpuinfo
for test in ${tests[@]}; do
  /\$test
  echo "\$test: exit status \$?"
done
/busybox sleep 5  # until the serial line has sent everything
/busybox poweroff -f
EOF
chmod +x "$scratch/initrd/init"
(cd "$scratch/initrd" && find . | cpio --quiet -o -H newc > "$scratch/iso/initrd")

# The first options make a short boot; tsc_early_khz is the emulated clock (ips below). XSAVEC and XSAVES (321, 323) are
# masked because Bochs 2.7 misstates the size of their area, on which the kernel gives up AVX altogether; so are protection
# keys (515, 516), whose area it states to be empty. Told of a fast short REP MOVSB (580), the kernel hangs while it boots.
cat > "$scratch/iso/isolinux.cfg" <<EOF
default tests
label tests
  kernel linux
  append initrd=initrd console=ttyS0 quiet nosmp mitigations=off no_timer_check tsc=reliable tsc_early_khz=50000 random.trust_cpu=on clearcpuid=321,323,515,516,580
EOF
cp "$kernel" "$scratch/iso/linux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$scratch/iso"
xorriso -as mkisofs -quiet -o "$scratch/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
  -boot-info-table "$scratch/iso" 2> "$scratch/xorriso.log"

cd "$scratch"
cat > bochsrc <<EOF
cpu: model=${CPU:-corei7_icelake_u}, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=256, host=256
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
com1: enabled=1, mode=file, dev=serial.log
display_library: rfb, options="timeout=0"
sound: driver=dummy
speaker: enabled=0
clock: sync=none
log: bochs.log
panic: action=fatal
error: action=ignore
EOF
echo continue > bochs.rc  # to the debugger, which starts first
: > serial.log
timeout "${LIMIT:-1800}" bochs -q -f bochsrc -rc bochs.rc < /dev/null > screen.log 2>&1 &
emulator=$!
trap 'kill $emulator 2>/dev/null || true' EXIT
tail -n +1 -f --pid=$emulator serial.log
wait $emulator || true  # how the emulator ends says nothing about the tests

flags=$(grep -a -m 1 "^flags" serial.log || true)
needed=(avx512f avx512dq avx512bw avx512vl)
[[ -v CPU ]] || needed+=(avx512_vnni)
for flag in "${needed[@]}"; do
  [[ " $flags " == *" $flag "* ]] || { echo "$0: $flag is missing" >&2; exit 1; }
done
for test in "${tests[@]}"; do
  grep -aq "^$test: exit status 0" serial.log || { echo "$0: $test did not pass" >&2; exit 1; }
done
echo "all tests passed with AVX-512: $(grep -o "avx512[a-z_0-9]*" <<< "$flags" | tr "\n" " ")"
