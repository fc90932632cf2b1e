#!/usr/bin/env python3
"""TVM's RPC client, through TVM's RPC proxy, against RPCServer in Node:

  tests/tvm_rpc/run.py [ours] [theirs] [record]   by default: ours theirs

`ours` is RPCServer of sluice/tvmjs, `theirs` that of the published @mlc-ai/web-runtime on the same wasm. `record` writes
packages/sluice/test/tvmjs/rpc_recording.json, what TVM's client and our server say to each other, which the package's
tests play again. Installs requirements.txt in build/tvm_rpc/python. Needs `make package`, the archive sluice_model of
the wasm build, and what tools/setup.sh installs. Exits 1 where something fails.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / "build" / "tvm_rpc"
PYTHON = OUT / "python"
RECORDING = ROOT / "packages" / "sluice" / "test" / "tvmjs" / "rpc_recording.json"
LIMIT_S = 300


def install() -> None:
    wanted = (HERE / "requirements.txt").read_text(encoding="utf-8")
    stamp = OUT / "python.made"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    print("tvm_rpc: installing Python packages, among them TVM", flush=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--upgrade",
         "--root-user-action=ignore", "--target", str(PYTHON), "-r", str(HERE / "requirements.txt")],
        check=True,
    )  # fmt: skip
    stamp.write_text(wanted, encoding="utf-8")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"tvm_rpc: error: the proxy does not listen on port {port}")


def run(whose: str) -> bool:
    env = dict(os.environ, PYTHONPATH=str(PYTHON), PYTHONDONTWRITEBYTECODE="1")
    port, port_end, web_port = free_ports(3)
    log = OUT / f"{whose}.log"
    arguments = {"ours": ["ours"], "theirs": ["theirs"], "record": ["ours", str(RECORDING)]}[whose]
    options = {"ours": [], "theirs": ["--theirs"], "record": ["--record"]}[whose]
    started = []
    try:
        with log.open("w", encoding="utf-8") as output:
            def start(command: list[str]) -> subprocess.Popen:
                started.append(subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=output, stderr=output, start_new_session=True))  # fmt: skip
                return started[-1]

            proxy = start([
                sys.executable, "-m", "tvm.exec.rpc_proxy", "--host", "127.0.0.1", "--port", str(port),
                "--port-end", str(max(port, port_end) + 1), "--web-port", str(web_port),
            ])  # fmt: skip
            wait_for(web_port, proxy)
            start(["node", "--import", "tsx", str(HERE / "serve.ts"), f"ws://127.0.0.1:{web_port}/ws", *arguments])
            print(f"tvm_rpc: {whose}", flush=True)
            client = subprocess.run(
                [sys.executable, str(HERE / "client.py"), str(port), str(OUT / "modules"), *options],
                cwd=ROOT, env=env, timeout=LIMIT_S, check=False,
            )  # fmt: skip
            good = client.returncode == 0
            if good and whose == "record":
                # It is written when the connection has ended
                time.sleep(2)
    except subprocess.TimeoutExpired:
        good = False
        print(f"tvm_rpc: the client ran past {LIMIT_S} s and was ended", file=sys.stderr)
    finally:
        for process in reversed(started):
            # The proxy has a process of its own, which would stay
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if not good:
        print(f"tvm_rpc: {whose} FAILED; the server's and the proxy's log:", file=sys.stderr)
        print("".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-40:]),
              file=sys.stderr)  # fmt: skip
    return good


def main() -> int:
    chosen = sys.argv[1:] or ["ours", "theirs"]
    if not set(chosen) <= {"ours", "theirs", "record"}:
        print(__doc__, file=sys.stderr)
        return 2
    install()
    return 0 if all([run(whose) for whose in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
