"""What docker-compose 1.29 makes of the compose files of tests/fixtures/compose, for our reader to agree with.

    python3 tests/parity/compose.py tests/fixtures/compose      writes expected.json there

Files that it does not understand, because they are of the newer specification, are left out: tests/it or the unit tests
say what they mean, from the specification. docker-compose 1.29 is Debian's package of that name.
"""
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import yaml


def words(value):
    return shlex.split(value) if isinstance(value, str) else value


def text(value):
    return {True: "true", False: "false", None: ""}.get(value, str(value)) if not isinstance(value, (int, float)) or isinstance(value, bool) else str(value)


def seconds(value):
    units = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
    total, number, rest = 0.0, "", str(value)
    while rest:
        if rest[0].isdigit() or rest[0] == ".":
            number, rest = number + rest[0], rest[1:]
            continue
        unit = next(unit for unit in ("us", "ms", "s", "m", "h") if rest.startswith(unit))
        total, number, rest = total + float(number) * units[unit], "", rest[len(unit):]
    return total


def size(value):
    value = str(value).lower().removesuffix("b")
    shift = {"k": 10, "m": 20, "g": 30, "t": 40}.get(value[-1:], 0)
    return int(float(value.rstrip("kmgt")) * (1 << shift))


def port(value):
    if isinstance(value, dict):
        return f'0.0.0.0:{value["published"]}->{value["target"]}'
    address, host, target = ([*str(value).removesuffix("/tcp").rsplit(":", 2)] + [None])[:3]
    return f"{address}:{host}->{target}" if target else f"0.0.0.0:{address}->{host}"


def mount(value, folder):
    """SOURCE, TARGET, whether it is read-only; a folder in memory is none."""
    if isinstance(value, dict):
        if value["type"] == "tmpfs":
            return None
        return [value.get("source", ""), value["target"], value.get("read_only", False)]
    parts = value.split(":")
    if len(parts) == 1:
        return ["", parts[0], False]
    source, target, modes = (parts + ["rw"])[:3]
    return [source.replace(folder, "."), target, "ro" in modes.split(",")]


def service(found, folder):
    check = found.get("healthcheck", {})
    limits = found.get("deploy", {}).get("resources", {}).get("limits", {})
    test = check.get("test")
    waits = {name: keys["condition"] for name, keys in found.get("depends_on", {}).items()}
    waits |= {name: "service_started" for name in found.get("links", []) if name not in waits}
    mounts = [mount(value, folder) for value in found.get("volumes", [])]
    networks = found.get("networks") or {"default": None}
    told = {
        "image": found.get("image"),
        "command": words(found.get("command")),
        "entrypoint": words(found.get("entrypoint")),
        "environment": {name: text(value) for name, value in (found.get("environment") or {}).items() if value is not None},
        "ports": sorted(port(value) for value in found.get("ports", [])),
        "mounts": sorted(value for value in mounts if value),
        "depends_on": waits,
        "restart": found.get("restart", "no"),
        "user": found.get("user"),
        "hostname": found.get("hostname"),
        "working_dir": found.get("working_dir"),
        "networks": {} if "network_mode" in found else {name: (keys or {}).get("aliases", []) for name, keys in networks.items()},
        "container_name": found.get("container_name"),
        "cap_add": found.get("cap_add", []),
        "labels": {name: text(value) for name, value in found.get("labels", {}).items()},
        "extra_hosts": sorted(found.get("extra_hosts", [])) if isinstance(found.get("extra_hosts", []), list)
        else sorted(f"{name}:{address}" for name, address in found["extra_hosts"].items()),
        "stop_grace": seconds(found.get("stop_grace_period", "10s")),
        "stop_signal": found.get("stop_signal"),
        "memory": size(value) if (value := found.get("mem_limit") or limits.get("memory")) else None,
        "cores": float(value) if (value := found.get("cpus") or limits.get("cpus")) else None,
        "shm_size": size(found["shm_size"]) if "shm_size" in found else None,
        "read_only": found.get("read_only", False),
        "privileged": found.get("privileged", False),
        "test": None if test is None else ["CMD-SHELL", test] if isinstance(test, str) else test,
        "interval": seconds(check["interval"]) if "interval" in check else None,
        "retries": check.get("retries"),
        "logging": found.get("logging", {}).get("options", {}),
        "sysctls": {name: text(value) for name, value in found.get("sysctls", {}).items()},
        "ulimits": {name: value if isinstance(value, dict) else {"soft": value, "hard": value} for name, value in found.get("ulimits", {}).items()},
    }
    return told


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    expected, left_out = {}, []
    with tempfile.NamedTemporaryFile() as nothing:
        for file in sorted(folder.glob("*.yaml")):
            command = ["docker-compose", "-f", file.name, "--env-file", nothing.name, "config"]
            environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                left_out.append(file.stem)
                continue
            # `config` writes a dollar twice, so that its output can be read again.
            said = yaml.safe_load(done.stdout.replace("$$", "$"))
            told = {name: service(found, str(folder)) for name, found in said["services"].items()}
            for volume, keys in said.get("volumes", {}).items():
                for mounts in (one["mounts"] for one in told.values()):
                    mounts[:] = [[keys.get("name", volume) if mount[0] == volume else mount[0], *mount[1:]] for mount in mounts]
            expected[file.stem] = told
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    print(f"{len(expected)} files; of the newer specification: {', '.join(left_out)}")


main()
