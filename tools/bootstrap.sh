#!/bin/sh
# Make what the Makefile needs on a bare machine. Usage: bootstrap.sh venv DIR | bootstrap.sh cc
#
#   venv DIR  a virtual environment with exactly the versions of requirements.lock, and this checkout in it
#   cc        a C compiler that links AddressSanitizer, UBSan and ThreadSanitizer programs (only the tests need it: the libraries
#             themselves are built by the compiler inside the virtual environment)
#
# What is missing is installed with apt when that is possible without a password; otherwise the exact command is
# printed and nothing is changed.
set -eu

# need_packages WHAT PACKAGE...: get what is missing, or say how.
need_packages() {
    what=$1
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing with apt: $*"
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
    else
        echo "missing on this machine: $what" >&2
        echo "install it, then run make again; on Debian or Ubuntu:  sudo apt-get install $*" >&2
        exit 1
    fi
}

give_up() {
    echo "what apt installed is not enough: fracgpu needs $1" >&2
    exit 1
}

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

make_venv() {
    what="Python 3.11 or newer with the venv module"
    python=$(find_python) || { need_packages "$what" python3 python3-venv; python=$(find_python); } || give_up "$what"
    # An environment that was interrupted in the making may have a Python, but no pip yet.
    if "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "bringing the virtual environment $1 up to date"
    else
        echo "making the virtual environment $1 (900 MB, once)"
        "$python" -m venv "$1"
    fi
    pip="$1/bin/python -m pip --quiet --disable-pip-version-check"
    $pip install --require-hashes --requirement requirements.lock
    # setuptools warns that folders here could shadow packages; ours are found by mapping, which tests prove.
    log=$(mktemp)
    $pip install --no-deps --no-build-isolation --editable . 2>"$log" || { cat "$log" >&2; rm -f "$log"; exit 1; }
    rm -f "$log"
}

have_sanitizers() {
    scratch=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$scratch/probe.c"
    status=0
    for sanitizers in address,undefined thread; do
        gcc -fsanitize=$sanitizers -o "$scratch/probe" "$scratch/probe.c" 2>/dev/null || status=1
    done
    rm -rf "$scratch"
    return $status
}

case "${1:-}" in
venv) make_venv "$2" ;;
cc)
    what="gcc with AddressSanitizer, UBSan and ThreadSanitizer"
    have_sanitizers || { need_packages "$what" gcc libc6-dev; have_sanitizers; } || give_up "$what"
    ;;
*) echo "usage: bootstrap.sh venv DIR | bootstrap.sh cc" >&2; exit 2 ;;
esac
