"""A user's restart command: `python restart.py PID PORT PIDFILE` kills a kvsim and starts anew."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from socket import create_connection

pid, port, pidfile = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
os.kill(pid, signal.SIGTERM)
with suppress(ConnectionRefusedError):
    while True:
        create_connection(("127.0.0.1", int(port)), timeout=1).close()
        time.sleep(0.05)
print("restarted", flush=True)
started = subprocess.Popen(
    ["kvsim", "--port", port, "--no-dev-mode", *sys.argv[4:]],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
)
pidfile.write_text(str(started.pid))
