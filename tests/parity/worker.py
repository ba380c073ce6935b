"""`sovereign worker` as a process."""

import json
import re
import subprocess
import urllib.request


class Worker:
    """A worker of its own for one model."""

    def __init__(self, binary, model):
        command = [binary, "worker", "--tied", "--model", model, "--listen", "tcp:127.0.0.1:0", "--ctx", "1024", "--slots", "1"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.address = re.search(r"\d+\.\d+\.\d+\.\d+:\d+", line).group()

    def post(self, path, **body):
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(30)
