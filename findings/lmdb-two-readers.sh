#!/usr/bin/env bash
# LMDB: a second reader of the same file in one process is refused, even read-only and without locks.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python lmdb==3.0.0
venv/bin/python - <<'PY'
import os

import lmdb

with lmdb.open("images") as database, database.begin(write=True) as transaction:
    for number in (1, 2, 10):
        transaction.put(str(number).encode(), b"jpeg")


def read(**options):
    try:
        with lmdb.open("images", readonly=True, **options) as database, database.begin() as transaction:
            return [key.decode() for key, _ in transaction.cursor()]
    except lmdb.Error as error:
        return f"{type(error).__name__}: {str(error).replace(os.getcwd(), '.')}"


alone = read(lock=False)
with lmdb.open("images", readonly=True, lock=False):
    second = read(lock=False)

print("lmdb", lmdb.__version__)
print("guess:  a training set and a validation set, each with its own reader of one file, work: LMDB is made for many readers")
print("seen:   first reader:", alone)
print("        second reader while the first is open:", second)
print("        many readers means many processes; within one, share the environment. (Keys are bytes: 10 comes before 2.)")
if alone != ["1", "10", "2"] or "already open in this process" not in second:
    raise SystemExit("changed: no longer as described")
PY
