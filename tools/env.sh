# Sourced by tools/demo and tools/test: a virtual environment in .venv that is current, made once and re-used.
# $1: the extra to install. PYTHON chooses the interpreter (3.11 or newer).
set -eu
cd "$(dirname "$0")/.."
extra="$1"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "datakit needs Python 3.11 or newer; set PYTHON to one" >&2
  exit 5
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
# Current means: this very pyproject.toml was installed with this extra (test holds demo).
stamp=".venv/datakit-$extra.sha256"
want="$(sha256sum pyproject.toml | cut -d' ' -f1)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  # torchvision names the torch it fits; asked for together, pip picks a pair that imports.
  echo "installing datakit[$extra] into .venv (once; some minutes)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extra]"
  echo "$want" >"$stamp"
  [ "$extra" = test ] && echo "$want" >.venv/datakit-all.sha256
fi
PATH="$PWD/.venv/bin:$PATH"

# Readers of our stores that want other versions than the environment has: each in a folder of its own under
# .venv/consumers, with just what the environment lacks. $1: a list of pinned packages, tools/consumers/<name>.txt.
consumer() {
  name="$(basename "$1" .txt)"
  folder=".venv/consumers/$name"
  want="$(sha256sum "$1" | cut -d' ' -f1)"
  [ "$(cat "$folder/current.sha256" 2>/dev/null)" = "$want" ] && return
  echo "installing $name into $folder (once)" >&2
  rm -rf "$folder"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" -r "$1"
  echo "$want" >"$folder/current.sha256"
}
