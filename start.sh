#!/usr/bin/env bash
# ./start.sh             set up, then open the studio in the browser   (--demo, --port N ...: see --help)
# ./start.sh test        set up, then run the tests
# ./start.sh VERB ...    set up, then python -m thinkswitch VERB ...   (run, resume, stop, status, ask, sweep, check, plan, export)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$here/.venv/bin/python"

if [ ! -x "$python" ]; then
    found=""
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            found="$candidate"; break
        fi
    done
    [ -n "$found" ] || { echo "error: Python 3.11 or newer is needed and was not found" >&2; exit 1; }
    "$found" -m venv "$here/.venv"
fi
# install again only when requirements.txt has changed
if ! cmp -s "$here/requirements.txt" "$here/.venv/installed.txt"; then
    echo "setting up (once; a few minutes) ..." >&2
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
    cp "$here/requirements.txt" "$here/.venv/installed.txt"
fi

export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
case "${1:-}" in
    ""|-*) exec "$python" "$here/app.py" --open "$@" ;;
    test) shift; cd "$here"; exec "$python" -m pytest tests "$@" ;;
    *)    exec "$python" -m thinkswitch "$@" ;;
esac
