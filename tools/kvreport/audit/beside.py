"""What stands beside the rounds: a matrix' outcomes, calibrations, and what is not looked at."""

from __future__ import annotations

from collections.abc import Iterator

from kvpipe.calibration import why_unfit
from kvpipe.records import Outcome, Run
from kvreport.audit.bundle import Bundle
from kvreport.audit.lines import EVERYWHERE, Line, Said, called, held, say, unknown
from kvreport.audit.rounds import named


def outcomes(bundle: Bundle) -> Iterator[Line]:
    """Each says nothing that contradicts itself, and no report leaves out what failed."""
    told = {str(one.get("name")) for report in bundle.reports for one in _outcomes(report)}
    for one in bundle.outcomes:
        wrong = [*_contradicted(one)]
        failed = one.state != "succeeded" or bool(one.tainted)
        if bundle.reports and failed and one.name not in told:
            wrong.append(say("audit_outcome_hidden", state=say(f"outcome_{one.state}")))
        there = _repeats(bundle, one.name)
        if not wrong and there < one.done:
            why = say("audit_outcome_part", there=there, done=one.done)
            yield unknown("outcome", called(one.name), why)
            continue
        right = say("audit_outcome_right", done=one.done, repeats=one.repeats)
        yield from held("outcome", called(one.name), wrong, right)


def _outcomes(report: dict[str, object]) -> list[dict[str, object]]:
    found = report.get("outcomes")
    return found if isinstance(found, list) else []


def _contradicted(one: Outcome) -> Iterator[Said]:
    if one.done > one.repeats:
        yield say("audit_outcome_more", done=one.done, repeats=one.repeats)
    if one.state == "succeeded" and one.done < one.repeats:
        yield say("audit_outcome_less", done=one.done, repeats=one.repeats)
    if one.state == "failed" and one.done >= one.repeats:
        yield say("audit_outcome_whole", done=one.done, repeats=one.repeats)


def _repeats(bundle: Bundle, name: str) -> int:
    """Repeats whose published rounds are all complete; a search's count by its records."""
    whole: dict[int, bool] = {}
    for stream in bundle.streams.values():
        if stream.run.name == name:
            complete = stream.end is not None and stream.end.complete
            whole[stream.run.repeat] = complete and whole.get(stream.run.repeat, True)
    searched = {one.record.repeat for one in bundle.searches if one.record.name == name}
    return len({at for at, complete in whole.items() if complete} | searched)


def calibrations(bundle: Bundle) -> Iterator[Line]:
    """Whether what a run carries of its client speaks of that client, and is what was published."""
    published = bundle.calibrations
    carried = [stream for stream in bundle.streams.values() if stream.run.calibration is not None]
    for stream in carried:
        run = stream.run
        assert run.calibration is not None
        if published and run.calibration not in published:
            wrong = [say("audit_calibration_other")]
            yield from held("calibration", named(stream), wrong, say("audit_none"))
            continue
        why = unfit(run)
        if why is None:
            right = say("audit_calibration_right", loads=len(run.calibration.loads))
            yield from held("calibration", named(stream), [], right)
            continue
        rounds = [one for one in bundle.stats if run.run_id in one.ids]
        hidden = [
            say("audit_calibration_hidden", why=why)
            for one in rounds
            if all(found.code != "calibration_unfit" for found in one.stats.findings)
        ]
        if hidden:
            yield from held("calibration", named(stream), hidden[:1], say("audit_none"))
        else:
            yield unknown("calibration", named(stream), say("audit_calibration_unfit", why=why))
    if published and not carried:
        yield unknown("calibration", EVERYWHERE, say("audit_calibration_unused"))


def unfit(run: Run) -> str | None:
    """Why a run's calibration says nothing about its client; None if it does."""
    if run.calibration is None:
        return None
    if run.host is None:
        return "of no host that is told"
    return why_unfit(run.calibration, run.host, run.tool_version, run.started_at)


def passed_over(bundle: Bundle) -> Iterator[Line]:
    """Records that are read and hashed, and that nothing is concluded from."""
    for kind, count in sorted(bundle.others.items()):
        yield unknown("others", EVERYWHERE, say("audit_passed_over", count=count, kind=kind))
