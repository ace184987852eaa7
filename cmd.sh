#!/usr/bin/env bash
# Everything a person does in this checkout. `./cmd.sh help` explains.
set -euo pipefail
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$root"

usage() {
  cat <<'TEXT'
usage: ./cmd.sh COMMAND [ARGUMENT ...]

  demo     set everything up, start the bridge with an offline demo model, play one turn
  test     set everything up, run all tests: with the fast extra, without it, and on the single file
  build    make dist/codex-bridge.pyz, the whole bridge in one file
  check    run the linter, the formatter's check and the type checker
  bench    print the figures of docs/performance.md (see ./cmd.sh bench --help)
  serve    run the bridge from this checkout (arguments as for codex-bridge serve)
  doctor   look whether Codex, its sandbox and the model provider work
  verify   try the model provider and the model: which execution class works
  help     this text

`test` passes further arguments to pytest: ./cmd.sh test -k stream
PYTHON names the interpreter to use (3.11 or newer); the virtual environments are .venv and .venv-plain. `test` also
needs Node 20 or newer with npm: it drives OpenAI's Python and Node clients.
TEXT
}

# Print the first Python that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "cmd.sh: Python 3.11 or newer is needed; PYTHON can name it." >&2
  exit 1
}

# Make the virtual environment $1 with the requirements $2..., again only when they or pyproject.toml have changed.
make_environment() {
  local directory=$1 python stamp
  shift
  stamp="$directory/installed-$({ cat pyproject.toml; echo "$@"; } | cksum | cut -d' ' -f1)"
  if [ ! -e "$stamp" ]; then
    python=$(find_python)
    echo "cmd.sh: setting up $directory (once; it may take a minute or two)" >&2
    # One whose making was cut off has no pip.
    "$directory/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    touch "$stamp"
  fi
}

make_user_environment() { make_environment .venv -e '.[fast,codex]'; }

make_full_environment() { make_environment .venv -e '.[fast,codex,dev]'; }

# The same without the fast extra, and without a second Codex of 385 MB.
make_plain_environment() { make_environment .venv-plain -e '.[test]'; }

# Install OpenAI's Node client, again only when its package.json has changed.
make_node_client() {
  local stamp
  stamp="tests/clients/node_modules/.installed-$(cksum <tests/clients/package.json | cut -d' ' -f1)"
  if [ ! -e "$stamp" ]; then
    if ! command -v npm >/dev/null; then
      echo "cmd.sh: the tests drive OpenAI's Node client, so Node 20 or newer with npm is needed." >&2
      exit 1
    fi
    echo "cmd.sh: setting up tests/clients/node_modules (once)" >&2
    (cd tests/clients && npm install --loglevel=error >&2)
    touch "$stamp"
  fi
}

packaged_codex() {
  .venv/bin/python -c 'from codex_cli_bin import bundled_codex_path as path; print(path())'
}

build() {
  local python
  python=$(find_python)
  rm -rf build/pyz
  mkdir -p build/pyz dist
  cp -R codex_bridge build/pyz/
  find build/pyz -name __pycache__ -type d -prune -exec rm -rf {} +
  cp codex_bridge/__main__.py build/pyz/__main__.py
  # Code compiled beforehand halves the start under this Python; any other one takes the source beside it.
  "$python" -m compileall -q -b --invalidation-mode unchecked-hash build/pyz
  "$python" -m zipapp build/pyz --compress --python '/usr/bin/env python3' --output dist/codex-bridge.pyz
  rm -rf build/pyz
  echo "dist/codex-bridge.pyz ($(wc -c <dist/codex-bridge.pyz) bytes)"
}

run_tests() {
  make_full_environment
  make_plain_environment
  make_node_client
  build
  CODEX_BIN=${CODEX_BIN:-$(packaged_codex)}
  # Images often switch it on. Without compiled tests each of the twelve processes compiles all of them for itself.
  unset PYTHONDONTWRITEBYTECODE
  export CODEX_BIN
  echo "== with uvloop and orjson" >&2
  .venv/bin/python -m pytest -n 4 "$@"
  # Of the real Codex the other two runs play what shows that all parts are there: it takes the most time by far.
  local some="(smoke or not codex) and not once"
  echo "== with the standard library alone" >&2
  .venv-plain/bin/python -c 'from importlib.util import find_spec as find; assert not find("uvloop") and not find("orjson")'
  .venv-plain/bin/python -m pytest -n 4 -m "$some" "$@"
  echo "== end to end on the single file, isolated" >&2
  .venv-plain/bin/python -m pytest -n 4 tests/e2e -m "$some" \
    --bridge "$(find_python) -I -S dist/codex-bridge.pyz" "$@"
}

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
  demo)
    make_user_environment
    cd "$caller"
    exec "$root/.venv/bin/codex-bridge" demo "$@"
    ;;
  test) run_tests "$@" ;;
  build) build ;;
  check)
    make_full_environment
    .venv/bin/ruff check codex_bridge tests bin
    .venv/bin/ruff format --check codex_bridge tests bin
    .venv/bin/mypy
    ;;
  bench)
    make_full_environment
    exec .venv/bin/python -m tests.bench "$@"
    ;;
  serve | doctor | verify)
    make_user_environment
    cd "$caller"
    exec "$root/.venv/bin/codex-bridge" "$command" "$@"
    ;;
  help | -h | --help) usage ;;
  *)
    echo "cmd.sh: there is no command '$command'; expected one of these:" >&2
    usage >&2
    exit 2
    ;;
esac
