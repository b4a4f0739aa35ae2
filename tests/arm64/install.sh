#!/usr/bin/env bash
# Make ARM64 Pythons with EdgeFuse's board dependencies under user-mode QEMU, in .arm64/.
#
# For x86-64 Debian. Needs no root and no binfmt, and leaves the host's packages as they are: apt
# downloads the emulator (amd64) and the libc and Python (arm64) of Raspberry Pi OS 12 and 13
# (Debian bookworm and trixie) from the mirror that this host uses, and pip the aarch64 wheels.
# A second run is instant.
# Emulation shows that the code is right on ARM64. It says nothing about a board's speed.
#
#   .arm64/3.11/python …   Raspberry Pi OS 12's; .arm64/3.13/python: 13's
#                          QEMU_CPU=cortex-a76 (Pi 5, the default), cortex-a72 (Pi 4) or
#                          cortex-a53 (Zero 2 W); ARM_PYTHONPATH: further import paths
#
# Exits with 77 where the host cannot do this, after a sentence that says why.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-.venv/bin/python}
dest=$PWD/.arm64
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

skip() {
    echo "arm64: skipped, because $1." >&2
    exit 77
}
[ "$(uname -sm)" = "Linux x86_64" ] || skip "the emulator is set up on x86-64 Linux only, and this is $(uname -sm)"
for tool in apt-get dpkg-deb tar cksum; do
    command -v "$tool" > /dev/null || skip "this host has no $tool (it needs to be a Debian)"
done
[ -e "$keyring" ] || skip "this host has no $keyring (it needs to be a Debian)"
mirror=$(apt-get indextargets --format '$(SITE)' "Created-By: Packages" 2> /dev/null | grep -v security | sort -u | head -n 1 || true)
[ -n "$mirror" ] || skip "apt knows no mirror (run apt-get update first)"

# once DIRECTORY NAME INPUT…: run the function NAME on DIRECTORY unless it was on the same inputs.
once() {
    local stamp
    stamp=$1/$2.$(printf '%s\n' "$@" | cksum | cut -d ' ' -f 1)
    [ -e "$stamp" ] && return
    rm -f "$1/$2".*
    "$2" "$1"
    touch "$stamp"
}

# download SUITE ARCHITECTURE PACKAGE…: into $dest/apt, with every dependency, by an apt of our own.
download() {
    local root=$dest/apt suite=$1 architecture=$2
    shift 2
    rm -rf "$root"
    mkdir -p "$root"/etc/{preferences.d,sources.list.d,apt.conf.d,trusted.gpg.d} \
        "$root"/{lists,cache/archives}/partial
    : > "$root/status" # nothing is installed, so every dependency is resolved
    echo "deb [signed-by=$keyring] $mirror $suite main" > "$root/etc/sources.list"
    cat > "$root/apt.conf" << EOF
Dir::Etc "$root/etc"; Dir::State "$root"; Dir::State::Lists "$root/lists"; Dir::State::status "$root/status";
Dir::Cache "$root/cache"; APT::Architecture "$architecture"; APT::Architectures { "$architecture"; };
APT::Sandbox::User ""; APT::Install-Recommends "false"; Acquire::Languages "none"; Acquire::Retries "3";
EOF
    APT_CONFIG=$root/apt.conf apt-get -qq update >&2
    APT_CONFIG=$root/apt.conf apt-get -qq -y --download-only install "$@" > /dev/null
}

# unpack DIRECTORY TAR-OPTION…: what was downloaded, under the usr-merge links that no package ships.
unpack() {
    local root=$1 package name
    shift
    rm -rf "$root"
    mkdir -p "$root"/usr/{bin,lib,lib64}
    for name in bin lib lib64; do ln -s "usr/$name" "$root/$name"; done
    for package in "$dest"/apt/cache/archives/*.deb; do
        case ${package##*/} in dpkg_* | tar_* | coreutils_* | readline-common_* | gcc-*-base_*) continue ;; esac
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --keep-directory-symlink --exclude='*/gconv' \
            --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' "$@"
    done
    rm -rf "$dest/apt"
}

emulator() { # with its libraries, libc too, so that the host's may be any
    download bookworm amd64 qemu-user
    unpack "$1/qemu" --exclude='./etc' --exclude='*-binfmt*'
    find "$1/qemu/usr/bin" -name 'qemu-*' ! -name qemu-aarch64 -delete
}

sysroot() {
    download "$suite" arm64 "python$version" libstdc++6
    unpack "$1/sysroot"
}

# QEMU shows the host's /proc/cpuinfo, from which ONNX Runtime chooses its kernels: without the
# emulated core's own it dies at import, with another core's of an illegal instruction.
cores() {
    local a53='fp asimd evtstrm crc32 cpuid'
    local a76='fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp'
    rm -rf "$1/core"
    core "$1/core/cortex-a76" 0x4 0xd0b 1 "$a76"
    core "$1/core/cortex-a72" 0x0 0xd08 3 "$a53"
    core "$1/core/cortex-a53" 0x0 0xd03 4 "$a53"
}
core() { # core ROOT VARIANT PART REVISION FEATURES: a root with that core's /proc/cpuinfo
    local root=$1 name i
    mkdir -p "$root/proc"
    for name in bin lib lib64 usr etc; do ln -s "../../sysroot/$name" "$root/$name"; done
    for ((i = 0; i < $(nproc); i++)); do
        printf '%s\t: %s\n' processor "$i" BogoMIPS 108.00 Features "$5" 'CPU implementer' 0x41 \
            'CPU architecture' 8 'CPU variant' "$2" 'CPU part' "$3" 'CPU revision' "$4"
        echo
    done > "$root/proc/cpuinfo"
}

requirements() { # what pyproject.toml asks for on a board
    "$python" -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["runtime"], sep="\n")'
}
wheels() {
    local options=() minor
    for minor in $(seq "$glibc" -1 17); do options+=(--platform "manylinux_2_${minor}_aarch64"); done
    rm -rf "$1/site-packages"
    requirements > "$1/requirements.txt"
    "$python" -m pip install -qq --disable-pip-version-check --no-compile --only-binary=:all: \
        --implementation cp --python-version "$version" \
        --abi "cp${version/./}" --abi abi3 --abi none \
        --platform manylinux2014_aarch64 "${options[@]}" \
        --target "$1/site-packages" --constraint constraints.txt --requirement "$1/requirements.txt"
}

launcher() {
    cat > "$1/python" << EOF
#!/bin/sh
# ARM64 CPython $version of Debian $suite under user-mode QEMU.
here=\$(cd "\$(dirname "\$0")" && pwd)
export QEMU_CPU="\${QEMU_CPU:-cortex-a76}"
export PYTHONPATH="\$here/site-packages\${ARM_PYTHONPATH:+:\$ARM_PYTHONPATH}"
export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="\$here/cache"
[ -d "\$here/core/\$QEMU_CPU" ] || { echo "QEMU_CPU=\$QEMU_CPU is not among" \$(ls "\$here/core") >&2; exit 2; }
exec "\$here/../qemu/lib64/ld-linux-x86-64.so.2" --library-path "\$here/../qemu/usr/lib/x86_64-linux-gnu" \
    "\$here/../qemu/usr/bin/qemu-aarch64" -L "\$here/core/\$QEMU_CPU" "\$here/sysroot/usr/bin/python$version" "\$@"
EOF
    chmod +x "$1/python"
}

script=$(cksum < tests/arm64/install.sh)
mkdir -p "$dest"
once "$dest" emulator "$script"
while read -r suite glibc version; do
    mkdir -p "$dest/$version"
    once "$dest/$version" sysroot "$script"
    once "$dest/$version" cores "$script" "$(nproc)"
    once "$dest/$version" wheels "$script" "$(requirements)" "$(cat constraints.txt)"
    launcher "$dest/$version"
    "$dest/$version/python" -c 'import platform, onnxruntime
print("arm64:", platform.machine(), "Python", platform.python_version(), "ONNX Runtime", onnxruntime.__version__)' < /dev/null
done << EOF
bookworm 36 3.11
trixie 41 3.13
EOF
