"""A worker that says something, then dies as the job asks; for the tests of the caller."""

import json
import os
import sys
import time

job = json.load(sys.stdin)
print("a library's banner, not a line of the protocol", flush=True)
print(json.dumps({"progress": {"stage": "its pid", "done": os.getpid(), "total": 0}}), flush=True)
if job["how"] == "exit":
    print("first\nlast words", file=sys.stderr)
    sys.exit(7)
if job["how"] == "kill":
    os.kill(os.getpid(), 9)
if job["how"] == "hang":
    time.sleep(600)
if job["how"] == "silent":
    sys.exit(0)
if job["how"] == "late":
    print(json.dumps({"result": {}}), flush=True)
    sys.exit(3)
