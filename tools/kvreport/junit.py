"""The report as JUnit XML: a suite per scenario, for whatever shows the results of a CI.

The first case of a suite is the measurement itself: invalid findings are its error, and so is
having nothing to compare. The targets that were named with `--target` are the others: met is
passed, invalid is an error, anything else a failure that says why, as the exit status has it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kvreport import phrasing
from kvreport.answer import facts, target
from kvreport.capacity import Capacities
from kvreport.capacity_chapter import sentence
from kvreport.conclusion import Conclusion, Scenario
from kvreport.display import NBSP, clean
from kvreport.targets import PASSED, Result
from kvreport.words import Words

MEASURED = "measurement"


def render(conclusion: Conclusion, words: Words) -> str:
    suites = ET.Element("testsuites", name="kvreport")
    for scenario in conclusion.scenarios:
        suites.append(_suite(scenario, conclusion, words))
    for case in conclusion.capacities:
        suites.append(_capacity(case, words))
    for count in ("tests", "failures", "errors"):
        suites.set(count, str(sum(int(one.get(count, "0")) for one in suites)))
    ET.indent(suites)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ET.tostring(suites, encoding='unicode')}\n"


def _suite(scenario: Scenario, conclusion: Conclusion, words: Words) -> ET.Element:
    suite = ET.Element("testsuite", name=plain(scenario.name))
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("tool_version", conclusion.tool_version),
        ("experiment_id", scenario.experiment_id or ""),
        ("simulated", "yes" if scenario.simulated else "no"),
        ("repeats", str(scenario.repeats)),
    ):
        ET.SubElement(properties, "property", name=name, value=plain(value))
    cases = [_measured(scenario, words)]
    cases += [_case(scenario, one, words) for one in scenario.targets if one.target.named]
    suite.extend(cases)
    answer = [f"{label}: {value}" for label, value in facts(scenario, words)]
    lines = [phrasing.title(scenario, words), *answer]
    ET.SubElement(suite, "system-out").text = "\n".join(map(plain, lines))
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(one.find("failure") is not None for one in cases)))
    suite.set("errors", str(sum(one.find("error") is not None for one in cases)))
    return suite


def _capacity(case: Capacities, words: Words) -> ET.Element:
    """A search for a capacity: an error where its two loads could not be compared."""
    suite = ET.Element("testsuite", name=plain(case.name))
    shown = ET.SubElement(suite, "testcase", classname=plain(case.name), name="capacity")
    said = plain(sentence(case, words))
    if case.verdict == "none":
        ET.SubElement(shown, "error", type=case.reasons[0], message=said).text = said
    ET.SubElement(suite, "system-out").text = said
    for count, number in (("tests", 1), ("failures", 0), ("errors", int(case.verdict == "none"))):
        suite.set(count, str(number))
    return suite


def _measured(scenario: Scenario, words: Words) -> ET.Element:
    case = ET.Element("testcase", classname=plain(scenario.name), name=MEASURED)
    found = [one.finding for one in scenario.findings if one.finding.severity == "invalid"]
    said = [f"{one.code}: {one.message}" for one in found]
    if not scenario.comparable:
        missing = [words.say(f"missing_{role}") for role in scenario.missing]
        said.append(words.say("compared_nothing", missing=words.listed(missing)))
    if said:
        kind = found[0].code if found else "nothing_to_compare"
        error = ET.SubElement(case, "error", type=kind, message=plain(said[0]))
        error.text = "\n".join(map(plain, said))
    return case


def _case(scenario: Scenario, result: Result, words: Words) -> ET.Element:
    asked = "..".join(f"{one:g}" for one in result.target.asked)
    name = f"{result.target.name}={asked}"
    case = ET.Element("testcase", classname=plain(scenario.name), name=name)
    if result.status in PASSED:
        return case
    kind = "error" if result.status == "invalid" else "failure"
    said = _said(scenario, result, words)
    ET.SubElement(case, kind, type=result.status, message=plain(said)).text = plain(said)
    return case


def _said(scenario: Scenario, result: Result, words: Words) -> str:
    """The answer's own sentence for the documents' target; for others status and reason."""
    if result.target.name == "ttft_reduction":
        return target(scenario, result, words)
    said = words.say(f"tally_{result.status}")
    return f"{said}: {phrasing.reason(result.reason, words)}" if result.reason else said


def plain(text: str) -> str:
    """One line of characters that XML 1.0 allows; figures keep their units by plain spaces."""
    return clean(text).replace(NBSP, " ")
