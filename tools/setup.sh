#!/bin/sh
# Installs the Debian packages that are missing, and says which. Instant when nothing is.
#
#   tools/setup.sh            what the build and `make run` need
#   tools/setup.sh --check    also what `make check` needs
#   tools/setup.sh --tests    also what the end-to-end tests need: .venv with tools/requirements-test.txt
#   tools/setup.sh --fuzz     also the compiler of the fuzz targets
#
# As root, or with sudo. On another system than Debian it names what it would have installed.
set -eu
cd "$(dirname "$0")/.."

packages="gcc libc6-dev pkg-config cmake ninja-build ca-certificates
    libgrpc-dev libprotobuf-c-dev protobuf-c-compiler libucx-dev libmicrohttpd-dev libjansson-dev
    libpcre2-dev libssl-dev libcurl4-openssl-dev libutf8proc-dev libcmocka-dev
    python3 python3-numpy"
venv=no
for option in "$@"; do
    case $option in
    --check) packages="$packages clang-format-14 git" ;;
    --tests) packages="$packages clang-format-14 git python3-venv"; venv=yes ;;
    --fuzz) packages="$packages clang-14 llvm-14" ;;
    *) echo "setup: unknown option $option" >&2; exit 2 ;;
    esac
done

missing_packages() {
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $packages 2>/dev/null |
        sed -n 's/^installed //p')
    for package in $packages; do
        printf '%s\n' "$installed" | grep -qxF "$package" || printf '%s ' "$package"
    done
}

# Runs a command quietly; what it wrote is shown only when it fails.
quietly() {
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        echo "setup: failed: $*" >&2
        exit 1
    fi
    rm -f "$log"
}

install_packages() {
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "setup: missing packages; run as root: apt-get install $missing" >&2
            exit 1
        fi
        as_root="sudo"
    fi
    echo "setup: installing Debian packages: $missing"
    quietly $as_root apt-get update -q
    quietly $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing
}

if command -v dpkg-query >/dev/null; then
    missing=$(missing_packages)
    if [ -n "$missing" ]; then
        install_packages
    fi
else
    echo "setup: not a Debian system; these packages, under its names, are needed:" $packages >&2
fi

requirements=tools/requirements-test.txt
if [ $venv = yes ] && ! cmp -s $requirements .venv/requirements; then
    echo "setup: making .venv with $(grep -c '^[a-zA-Z]' $requirements) packages from PyPI ($requirements)"
    rm -rf .venv
    quietly /usr/bin/python3 -m venv --system-site-packages .venv
    quietly .venv/bin/pip install -q --disable-pip-version-check -r $requirements
    cp $requirements .venv/requirements
fi
