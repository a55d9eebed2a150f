#!/usr/bin/env bash
# Typer 0.29 takes --epochs 10.0 and 1_0 as the integer 10; a wrong number is no longer named in its error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python rich==15.0.0
cat >app.py <<'PY'
import typer


def main(epochs: int = 1):
    print(repr(epochs))


typer.run(main)
PY
run() {
    venv/bin/python app.py --epochs "$1" 2>&1 | tr -d '│╭╮╰╯─' | grep -E "^[0-9]|Invalid|integer" | tr -s ' \n' ' ' || true
}
echo "guess:  10.0 is refused, as int(\"10.0\") is, by old and new versions; the error names what was typed"
for version in 0.20.0 0.29.2; do
    uv pip install --quiet --python venv/bin/python "typer==$version"
    for typed in 10.0 1_0 ten; do
        seen="$(run "$typed")"
        echo "seen:   typer $version, --epochs $typed: $seen"
        echo "$version $typed $seen" >>all
    done
done
grep -q '^0.20.0 10.0 .*10.0.*not a valid integer' all && grep -q '^0.29.2 10.0 10 *$' all && ! grep '^0.29.2 ten' all | grep -q "'ten'" || {
    echo "changed: no longer as described"
    exit 1
}
