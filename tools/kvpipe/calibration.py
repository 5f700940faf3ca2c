"""Whether a calibration speaks of the client that is about to run, or ran."""

from __future__ import annotations

from datetime import datetime, timedelta

from kvpipe.records import Calibration, Host

MAX_AGE = timedelta(days=30)  # by then a machine has had another kernel, or another neighbour


def why_unfit(
    calibration: Calibration, host: Host, tool_version: str, started_at: str
) -> str | None:
    """Why it says nothing about this client, to follow `the calibration is`; None if it does."""
    then = calibration.host
    if then.name != host.name:
        return f"of another host ({then.name}, not {host.name})"
    if (then.cpus, then.system) != (host.cpus, host.system):
        was = f"{then.cpus} processors, {then.system}"
        return f"of this host as it was ({was}; now {host.cpus}, {host.system})"
    if (calibration.tool_version, then.python) != (tool_version, host.python):
        was = f"kvload {calibration.tool_version} on Python {then.python}"
        return f"of {was}, not of {tool_version} on {host.python}"
    age = _age(calibration.made_at, started_at)
    if age is None:
        return f"without a date that can be read ({calibration.made_at})"
    if age > MAX_AGE:
        return f"{age.days} days old"
    if age < -timedelta(days=1):
        return f"from the future ({calibration.made_at})"
    return None


def _age(made_at: str, started_at: str) -> timedelta | None:
    """Null if one of them is no time, or only one of them has a zone."""
    try:
        return datetime.fromisoformat(started_at) - datetime.fromisoformat(made_at)
    except (ValueError, TypeError, OverflowError):
        return None
