"""Adds to a finished page when and where its study last ran, and with which code.

The page that the stage makes depends on none of these, so that equal inputs give equal bytes. `palimpsest report`
writes this copy beside it.
"""

from __future__ import annotations

from markupsafe import Markup

SLOT = "<!-- run -->"  # in the template of the last section
DOCUMENTS = ("researcher.md", "statistics.md", "findings.md")  # in docs: how to read the page


def stamped(page: str, began: str, machine: str, commit: str, repository: str) -> str:
    """The page with the facts of a run.

    Args:
        page: the text of report.html.
        began: the local time when the last run of the study that computed anything began.
        machine: its GPUs or its processor; empty if unknown.
        commit: of its code; a "+" at its end: with changes that are in no commit. Empty if unknown.
        repository: the address of the code's page on the web, for links to the commit and its documents; empty if it
            has none.
    """
    facts = [Markup("<dt>Last run</dt><dd>{}</dd>").format(f"began {began}" + (f", on {machine}" if machine else ""))]
    if commit:
        changed = ", with changes that are in no commit" if commit.endswith("+") else ""
        link = '<a href="{0}/commit/{1}">{2}</a>{3}' if repository else "{2}{3}"
        facts.append(
            Markup(f"<dt>Commit</dt><dd>{link}</dd>").format(repository, commit.rstrip("+"), commit[:10], changed)
        )
    if commit and repository:
        link = '<a href="{0}/blob/{1}/docs/{2}">docs/{2}</a>'
        links = [Markup(link).format(repository, commit.rstrip("+"), name) for name in DOCUMENTS]
        facts.append(Markup("<dt>Documents</dt><dd>{}</dd>").format(Markup(", ").join(links)))
    return page.replace(SLOT, "\n".join(facts), 1)
