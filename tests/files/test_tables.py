"""The tables match their description in data/README.md."""

import re
from pathlib import Path

import pyarrow as pa

from stages.files import tables

DOC = Path("data/README.md").read_text("utf-8")


def test_every_column_of_every_table_is_documented_with_its_type():
    schemas = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}
    columns = {(f.name, str(f.type).replace("element:", "item:"), table) for table, s in schemas.items() for f in s}
    documented = set()
    for line in DOC.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"`[a-z_]+`", cells[0]):
            assert cells[2]
            documented |= {(cells[0].strip("`"), cells[1], name) for name in re.findall(r"`(\w+)`", cells[3])}
    assert documented == columns
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", DOC, re.M)) == set(schemas)
