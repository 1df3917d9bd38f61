"""Everything around a stage: its server, settings, logs, metrics, traces, errors and calls to others."""

import os


def _unreadable(name: str, value: str) -> bool:
    if name.upper() == "PROMETHEUS_MULTIPROC_DIR":
        return not os.access(value, os.W_OK | os.X_OK)
    return name.startswith("OTEL_") and name.endswith("_LIMIT") and not (value.strip() or "0").isdigit()


# Libraries read these while they are imported, and would end the process with a traceback there. They are taken out of
# the environment before, and `server.run` refuses them.
UNREADABLE = {name: os.environ.pop(name) for name, value in list(os.environ.items()) if _unreadable(name, value)}
