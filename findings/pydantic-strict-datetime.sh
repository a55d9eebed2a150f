#!/usr/bin/env bash
# Strict pydantic reads the JSON string "20261128" as a second of 1970, and refuses "2026-11-28".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python pydantic==2.14.4
venv/bin/python - <<'PY'
from datetime import datetime

import pydantic


class Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    saved: datetime


def read(json):
    try:
        return Record.model_validate_json(json).saved.isoformat()
    except pydantic.ValidationError as error:
        return error.errors()[0]["type"]


guesses = {
    '{"saved": "20261128"}': "28 November 2026 (ISO 8601, basic format), or an error",
    '{"saved": "2026-11-28"}': "28 November 2026, midnight",
    '{"saved": "1.5"}': "an error: no date at all, and strict",
    '{"saved": 1.5}': "the same as the string",
}
known = ["1970-08-23T12:05:28+00:00", "datetime_parsing", "1970-01-01T00:00:01.500000+00:00", "datetime_type"]

print("pydantic", pydantic.VERSION)
for json, guess in guesses.items():
    print(json)
    print("  guess: ", guess)
    print("  seen:  ", read(json))
if [read(json) for json in guesses] != known:
    raise SystemExit("changed: no longer as described")
PY
