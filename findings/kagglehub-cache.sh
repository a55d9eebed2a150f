#!/usr/bin/env bash
# kagglehub resumes a cut download into its cache, not into output_dir, and asks the server before it looks into the cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
uv venv --quiet --python 3.11 venv
uv pip install --quiet --python venv/bin/python kagglehub==1.0.3 kagglesdk==0.1.38
# kagglehub knows no URL of a server, only names: "LOCALHOST" and an HTTP proxy lead it to the server below.
export HOME="$folder" KAGGLEHUB_CACHE="$folder/cache" KAGGLE_API_ENVIRONMENT=LOCALHOST KAGGLE_API_TOKEN=none KAGGLEHUB_VERBOSITY=error
env -u NO_PROXY -u no_proxy -u http_proxy venv/bin/python - 2>/dev/null <<'PY'
import http.server
import io
import os
import threading
import zipfile

buffer = io.BytesIO()
with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("train/cat/1.jpg", os.urandom(3_000_000))
data = buffer.getvalue()
requests_seen = []


class Server(http.server.BaseHTTPRequestHandler):
    def send(self, status, content, sent, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content[:sent])
        self.close_connection = True

    def do_POST(self):
        name = self.path.rsplit("/", 1)[-1]
        self.rfile.read(int(self.headers["Content-Length"]))
        requests_seen.append(name)
        if name == "GetDataset":
            content = b'{"currentVersionNumber": 1}'
            self.send(200, content, len(content), Content_Type="application/json")
        else:  # the first download of all is cut in the middle, and so is the first into output_dir
            cut = requests_seen.count("DownloadDataset") in (1, 3)
            self.send(200, data, len(data) // 2 if cut else len(data), Content_Type="application/zip")

    def do_GET(self):
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        requests_seen.append(f"Range from {start}")
        self.send(206, data[start:], len(data))

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HTTP_PROXY"] = f"http://127.0.0.1:{server.server_port}"

import kagglehub  # noqa: E402


def download(**options):
    try:
        return "done: " + os.path.relpath(kagglehub.dataset_download("owner/images", **options))
    except Exception as error:  # what a caller sees
        return f"{type(error).__name__}: {str(error).replace(os.getcwd(), '.')[:70]}"


cached = [download(), download()]
resumed = any(request.startswith("Range") for request in requests_seen)
into_folder = [download(output_dir="images"), download(output_dir="images")]
server.shutdown()
server.server_close()
offline = [download(), kagglehub.dataset_download("owner/images/versions/1")]

print("kagglehub", kagglehub.__version__)
print("guess:  a download that was cut goes on where it was, into the cache and into output_dir")
print("seen:   cache, cut and again:      ", cached, "resumed by a range request:", resumed)
print("        output_dir, cut and again: ", into_folder)
print("guess:  without a network, what is complete in the cache is used")
print("seen:   owner/images:            ", offline[0])
print("        owner/images/versions/1: ", os.path.relpath(offline[1]))
print("        the newest version is asked for first; only a handle with a version needs no server")
if not resumed or not cached[1].startswith("done") or "FileExistsError" not in into_folder[1] or "done" in offline[0]:
    raise SystemExit("changed: no longer as described")
PY
