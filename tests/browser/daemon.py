"""A real daemon with a state folder of its own."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SOVEREIGN_BINARY", REPOSITORY / "target/debug/sovereign"))
PASSWORD = "correct horse battery"


class Daemon:
    """`sovereign serve` on a free port of the loopback, until `stop`."""

    def __init__(self, folder: Path, config: dict):
        if not BINARY.exists():
            raise FileNotFoundError(f"{BINARY} is missing: run `cargo build`, or set SOVEREIGN_BINARY")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "config.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(config))
        self.log = folder / "daemon.log"
        self.process = subprocess.Popen(
            [BINARY, "serve", "--config", file, "--state", folder / "state", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            text=True,
        )
        self.setup_link = None
        self.address = self._read_addresses()
        # Whatever else it prints must not fill the pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def _read_addresses(self) -> str:
        address = None
        for line in self.process.stdout:
            if found := re.search(r"http://\S+/setup\?token=\S+", line):
                self.setup_link = found[0]
                break
            if line.startswith("Dashboard:"):
                break
            if found := re.search(r"http://\S+", line):
                address = found[0].rstrip("/")
        if address is None:
            raise RuntimeError(f"the daemon did not say where it listens:\n{self.log.read_text()}")
        return address

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the daemon did not end within 20 s of SIGTERM:\n{self.log.read_text()}")
