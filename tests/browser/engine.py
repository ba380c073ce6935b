"""A private Docker engine, and a tiny image that is built here: no registry is asked."""

import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

PROGRAM = r"""
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1) return 0; /* the health check */
    for (;;) { puts("hello from a container"); fflush(stdout); sleep(1); }
}
"""
IMAGE = "sovereign-test/hello:1"
AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]


class Engine:
    """`dockerd` over folders and a socket of its own."""

    def __init__(self, folder: Path):
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"
        self.log = folder / "dockerd.log"
        self.process = subprocess.Popen(
            [
                *AS_ROOT,
                "dockerd",
                f"--host={self.host}",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/pid",
                "--storage-driver=vfs",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
            ],
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        )
        self._wait()
        self._build(folder)

    def _wait(self):
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "-H", self.host, "version"], capture_output=True).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd does not answer:\n{self.log.read_text()}")
            time.sleep(0.2)

    def _build(self, folder: Path):
        program = folder / "hello"
        command = ["cc", "-static", "-Os", "-x", "c", "-", "-o", program]
        subprocess.run(command, input=PROGRAM, text=True, check=True)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(program, "hello")
        self._docker("import", "-c", 'CMD ["/hello"]', "-", IMAGE, input=archive.getvalue())

    def _docker(self, *arguments: str, **options) -> bytes:
        return subprocess.run(["docker", "-H", self.host, *arguments], check=True, capture_output=True, **options).stdout

    def stack(self) -> str:
        """A compose file over the image; JSON is YAML."""
        service = {
            "image": IMAGE,
            "healthcheck": {"test": ["CMD", "/hello", "check"], "interval": "1s", "timeout": "1s", "retries": 3},
            "pid": "host",
            "x-sovereign": {"allow": ["host-pid"]},
        }
        about = {"title": "Hello", "web": ":7777/hello", "description": "Says hello once a second. Built by the tests, from a dozen lines of C."}
        return json.dumps({"x-sovereign": about, "services": {"hello": service}})

    def containers(self) -> str:
        """Names of what runs."""
        return self._docker("ps", "--format", "{{.Names}}").decode()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
