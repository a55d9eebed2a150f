#!/usr/bin/env bash
# webdataset ends a sample's key at the first dot of the file name: img.1.jpg and img.2.jpg are one sample.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python webdataset==1.0.2 numpy==2.4.6
venv/bin/python - <<'PY'
import io
import tarfile

import webdataset


def shard(path, names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"0"))


def read(path):
    samples = webdataset.WebDataset(path, shardshuffle=False)
    return [(sample["__key__"], sorted(key for key in sample if not key.startswith("__"))) for sample in samples]


shard("dots.tar", ["cat/img.1.jpg", "cat/img.1.cls", "cat/img.2.jpg", "cat/img.2.cls"])
shard("apart.tar", ["a.jpg", "b.jpg", "a.cls", "b.cls"])
dots, apart = read("dots.tar"), read("apart.tar")

print("webdataset", webdataset.__version__)
print("guess:  cat/img.1 and cat/img.2, each with a jpg and a cls (the ending is what follows the last dot)")
print("seen:  ", dots)
print("guess:  images first, labels after them: two samples all the same, or an error")
print("seen:  ", apart)
if dots != [("cat/img", ["1.cls", "1.jpg", "2.cls", "2.jpg"])] or [keys for _, keys in apart] != [["jpg"]] * 2 + [["cls"]] * 2:
    raise SystemExit("changed: no longer as described")
PY
