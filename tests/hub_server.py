"""A hub on this machine: the part of its HTTP API that huggingface_hub calls to create a model and upload a folder.

Large files go the way of git LFS (batch, PUT, verify by digest), small ones inside the commit; a commit is taken whole
or not at all, and only if every large file of it has arrived with the digest that it names.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "x" * 34


class Hub:
    """repos: {id: {"private": bool, "files": {path: bytes}, "commits": int}}; refuse: {part of a path: status}."""

    def __init__(self):
        self.repos: dict[str, dict] = {}
        self.objects: dict[str, bytes] = {}
        self.refuse: dict[str, int] = {}
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, value=None, status=200, headers=()):
                body = b"" if value is None else json.dumps(value).encode()
                self.send_response(status)
                for name, text in [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]:
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(body)

            def refuse(self, status, text):
                self.answer({"error": text}, status, [("X-Error-Message", text)])

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            def handle_one(self):
                body, path = self.body(), self.path.partition("?")[0]
                hub.asked.append(f"{self.command} {path}")
                if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.refuse(401, "Invalid credentials in Authorization header")
                for part, status in hub.refuse.items():
                    if part in path:
                        return self.refuse(status, "no room left in your storage")
                if path == "/api/whoami-v2":
                    return self.answer({"type": "user", "name": "me"})
                if path.startswith("/lfs/"):
                    hub.objects[path.removeprefix("/lfs/")] = body
                    return self.answer()
                value = None if path.endswith("/commit/main") else json.loads(body or b"{}")
                if path == "/api/repos/create":
                    return self.create(f"{value['organization']}/{value['name']}", value)
                if path == "/api/validate-yaml":
                    return self.answer({"errors": [], "warnings": []})
                if path.endswith(".git/info/lfs/objects/batch"):
                    return self.answer({"transfer": "basic", "objects": [self.wanted(o) for o in value["objects"]]})
                if path.startswith("/api/models/"):
                    owner, name, *rest = path.removeprefix("/api/models/").split("/")
                    return self.model(f"{owner}/{name}", rest, value, body)
                return self.refuse(404, f"{self.command} {path} is not known here")

            do_GET = do_POST = do_PUT = handle_one

            def create(self, repo, value):
                address = {"url": f"{hub.url}/{repo}"}
                if repo in hub.repos:
                    return self.answer({"error": "You already created this model repo", **address}, 409)
                hub.repos[repo] = {"private": value["private"], "files": {}, "commits": 0}
                return self.answer(address)

            def wanted(self, item):
                if item["oid"] in hub.objects:
                    return item
                return {**item, "actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}", "header": {}}}}

            def model(self, repo, rest, value, body):
                found = hub.repos.get(repo)
                if found is None:
                    return self.refuse(404, "Repository not found")
                if not rest:
                    return self.answer({"id": repo, "private": found["private"], "siblings": [], "tags": []})
                if rest[0] == "preupload":
                    modes = [
                        {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                         "shouldIgnore": False, "oid": None}
                        for f in value["files"]
                    ]  # fmt: skip
                    return self.answer({"files": modes})
                files = {}
                for line in map(json.loads, body.splitlines()):
                    item = line["value"]
                    if line["key"] == "file":
                        files[item["path"]] = base64.b64decode(item["content"])
                    elif line["key"] == "lfsFile":
                        data = hub.objects.get(item["oid"], b"")
                        if hashlib.sha256(data).hexdigest() != item["oid"] or len(data) != item["size"]:
                            return self.refuse(400, f"{item['path']} has not arrived")
                        files[item["path"]] = data
                found["files"] |= files
                found["commits"] += 1
                return self.answer({"commitOid": "0" * 40, "commitUrl": f"{hub.url}/{repo}/commit/{'0' * 40}"})

        return Handler
