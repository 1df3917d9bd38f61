"""Everything around a stage: its server, settings, logs, metrics, traces, errors and calls to others."""

import os

# Our processes fork only to run another program. gRPC would stop its threads before each such fork, as uvloop's of the
# embedded engine, and warn where it cannot. It reads this while it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def _unreadable(name: str, value: str) -> bool:
    if name.upper() == "PROMETHEUS_MULTIPROC_DIR":
        return not os.access(value, os.W_OK | os.X_OK)
    return name.startswith("OTEL_") and name.endswith("_LIMIT") and not (value.strip() or "0").isdigit()


# Libraries read these while they are imported, and would end the process with a traceback there. They are taken out of
# the environment before, and `server.run` refuses them.
UNREADABLE = {name: os.environ.pop(name) for name, value in list(os.environ.items()) if _unreadable(name, value)}
