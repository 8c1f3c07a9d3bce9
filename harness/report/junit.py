"""The table as JUnit XML: one test case per cell, for CI services.

Law: a cell fails when it is surely above a tolerance or got worse; it is skipped, with the
reason, when its interval straddles a tolerance. Nothing inconclusive is green or red.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from harness.report import words
from harness.report.text import interval

if TYPE_CHECKING:
    from harness.report.compare import Comparison
    from harness.report.table import Table

# XML 1.0 has no place for these; a cause or a path may hold them all the same.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)


def render(table: Table, comparison: Comparison | None = None, error: str | None = None) -> str:
    """XML with a declaration. error: why the run itself broke off."""
    name = table.matrix or "table"
    suite = ET.Element("testsuite", name=_clean(name))
    failures = skipped = 0
    worse = {
        words.config(c.config): c
        for c in (comparison.cells if comparison else ())
        if c.direction == "worse"
    }
    for row in table.rows:
        shown = words.config(row.config)
        case = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(shown))
        counts = f"{row.died} died of {row.observed} observed, {interval(row.rate)}"
        causes = ", ".join(f"{cause} {n}" for cause, n in row.causes.items())
        outside = [j for j in table.outside if j.cell == row.cell]
        above = [f"{j.of} above {words.percent(j.tolerance)}" for j in outside if j.above]
        if shown in worse:
            cell = worse[shown]
            above.append(f"worse than before ({cell.a.died}/{cell.a.observed}, q {cell.q:.3g})")
        if above:
            failures += 1
            failure = ET.SubElement(
                case, "failure", message=_clean("; ".join(above)), type="deaths"
            )
            failure.text = _clean(f"{counts}\n{causes}")
        elif outside:
            skipped += 1
            open_ = "; ".join(f"{j.of} {words.percent(j.tolerance)} not decided" for j in outside)
            ET.SubElement(case, "skipped", message=_clean(f"{open_}: {counts}"))
        out = ET.SubElement(case, "system-out")
        out.text = _clean(f"{counts}\n{causes}".strip())
    if comparison is not None and comparison.direction == "worse" and not worse:
        failures += 1
        case = ET.SubElement(suite, "testcase", classname=_clean(name), name="all cells together")
        ET.SubElement(case, "failure", message="worse than before over all cells", type="deaths")
    errors = 0
    if error is not None:
        errors = 1
        case = ET.SubElement(suite, "testcase", classname=_clean(name), name="the run itself")
        ET.SubElement(case, "error", message=_clean(error), type="environment")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    suite.set("skipped", str(skipped))
    ET.indent(suite)
    body = ET.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'
