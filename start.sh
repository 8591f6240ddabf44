#!/usr/bin/env bash
# ./start.sh             set up, then open the studio in the browser   (--demo, --port N ...: see --help)
# ./start.sh test ...    set up, then run the tests                    (--slow, paths ...: see pytest --help)
# ./start.sh VERB ...    set up, then python -m thinkswitch VERB ...   (run, resume, stop, status, ask, ...)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$here/.venv"
python="$venv/bin/python"
pip=("$python" -m pip install --quiet --disable-pip-version-check)

fail() {
    echo "error: $1" >&2
    exit 1
}

make_venv() {
    local candidate
    rm -rf "$venv" # a file, or a link to a Python that is gone, would be in the way
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            "$candidate" -m venv --clear "$venv" && return
            rm -rf "$venv" # half made, it would break every later start
            fail "$candidate could not make $venv; on Debian and Ubuntu: apt install python3-venv"
        fi
    done
    fail "Python 3.11 or newer is needed and was not found"
}

# changed RECORD FILE...: whether the files differ from what was recorded in .venv when they were installed
changed() { ! cat "${@:2}" | cmp -s - "$venv/$1"; }
record() { cat "${@:2}" >"$venv/$1"; }

export PYTHONUTF8=1 # files and output are UTF-8 whatever the locale

main_files=("$here/requirements.txt" "$here/pyproject.toml")
# its Python is missing where the system's has been replaced by a newer one
if changed installed.txt "${main_files[@]}" || [ ! -x "$python" ]; then
    echo "setting up (once; a few minutes) ..." >&2
    { [ -s "$python" ] && "$python" -m pip --version >/dev/null 2>&1; } || make_venv # an empty file "succeeds"
    "${pip[@]}" -r "$here/requirements.txt" >&2
    # torch brings the setuptools that this needs, so nothing else is downloaded
    "${pip[@]}" --no-deps --no-build-isolation --editable "$here" >&2
    record installed.txt "${main_files[@]}"
fi

case "${1:-}" in
    "" | -*) exec "$python" "$here/app.py" --open "$@" ;;
    test)
        shift
        if changed installed-tests.txt "$here/requirements-dev.txt"; then
            "${pip[@]}" -r "$here/requirements-dev.txt" >&2
            record installed-tests.txt "$here/requirements-dev.txt"
        fi
        cd "$here"
        exec "$python" -m pytest -n 2 --dist worksteal "$@" # -n 0: in one process, as a debugger needs it
        ;;
    *) exec "$python" -m thinkswitch "$@" ;;
esac
