#!/usr/bin/env bash
# Makes the environment that the Makefile uses: `scripts/setup.sh .venv`.
# Installs what is missing of Debian's packages where it may (root, or sudo without a password),
# else says what to install. PYTHON=… chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv}

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

recent_enough() { # is $1 a Python that runs, 3.11 or newer?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if recent_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

as_root=()
if ((EUID != 0)); then as_root=(sudo -n); fi

may_install() { # is there an apt that we may use?
    command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null
}

apt_updated=
install() { # install PACKAGE… WHY: by apt, or an error that says what to do
    local why="${*: -1}" packages=("${@:1:$#-1}")
    if may_install; then
        say "Installing ${packages[*]} ($why)"
        if [[ -z $apt_updated ]]; then
            "${as_root[@]}" apt-get -qq update
            apt_updated=yes
        fi
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y --no-install-recommends "${packages[@]}"
    else
        echo "KernelJudge needs ${packages[*]}: $why." >&2
        echo "Install them (sudo apt-get install ${packages[*]}), then run this again." >&2
        exit 1
    fi
}

say "1/4 Looking for Python 3.11 or newer, and a C++ compiler"
if [[ -n ${PYTHON:-} ]] && ! recent_enough "$PYTHON"; then
    echo "PYTHON=$PYTHON is not a Python 3.11 or newer." >&2
    exit 1
fi
if ! python=$(find_python); then
    install python3 python3-venv "Python 3.11 or newer"
    if ! python=$(find_python); then
        echo "KernelJudge needs Python 3.11 or newer; this system's packages have" \
            "$(python3 --version 2>&1). Install a newer one and run this again with" \
            "PYTHON=/path/to/python3." >&2
        exit 1
    fi
fi
echo "$python: $("$python" --version)"

missing=()
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    missing+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv")
fi
if ! "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'; then
    missing+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-dev")
fi
command -v g++ >/dev/null || missing+=(g++)
if ((${#missing[@]})); then
    install "${missing[@]}" "to make an environment and to compile kernels' host code"
fi

# Tests start a PostgreSQL server of their own. Without one they are skipped, but not in CI.
postgres=(/usr/lib/postgresql/*/bin/initdb)
if [[ ! -x ${postgres[0]} ]] && ! command -v initdb >/dev/null; then
    if may_install || [[ ${CI:-} == true ]]; then
        install postgresql "the tests of the job store run on a real PostgreSQL too"
    else
        echo "PostgreSQL's server is not installed: its tests are skipped" \
            "(sudo apt-get install postgresql)."
    fi
fi

# The page is tested in a real browser. Without one these tests are skipped, but not in CI.
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null &&
    ! command -v google-chrome >/dev/null; then
    if may_install || [[ ${CI:-} == true ]]; then
        install chromium "the page is tested in a real browser"
    else
        echo "Chromium is not installed: the tests in a browser are skipped" \
            "(sudo apt-get install chromium)."
    fi
fi

say "2/4 Making the environment $venv"
rm -f "$venv/.ready"
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
[[ -t 1 ]] || pip+=(--quiet)
"${pip[@]}" install --upgrade pip

say "3/4 Installing torch"
# By its exact requirement and first, so that the index's own build of it is taken (for a machine
# without a GPU often a smaller one) and nothing later pulls in another.
"${pip[@]}" install "$(grep '^torch==' constraints.txt)"

extras=server,dev
if [[ -e /dev/nvidiactl ]] || command -v nvidia-smi >/dev/null; then extras+=,gpu; fi
say "4/4 Installing KernelJudge with the extras $extras"
"${pip[@]}" install --constraint constraints.txt --editable ".[$extras]"

touch "$venv/.ready"
