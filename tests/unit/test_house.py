"""The house rules that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]


def _functions(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_file_is_longer_than_600_lines():
    long = {str(path.relative_to(ROOT)): n for path in ALL if (n := len(path.read_text().splitlines())) > 600}
    assert {} == long


def test_no_function_of_the_product_is_longer_than_60_lines():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in _functions(path)
        if (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert [] == long


def test_every_module_says_what_it_is():
    assert [] == [
        str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))
    ]


def test_every_exemption_has_its_reason():
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in ALL
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*(noqa|type: ignore)\b", line)
        and "re.search" not in line
        and not re.search(r"(noqa: [\w, ]+|ignore\[[\w, -]+\])\s+(-|#)", line)
    ]
    assert [] == bare


def test_a_pattern_ends_where_the_text_ends():
    # `$` matches before a line feed at the end, too (ADR 0008). What the web describes stays within ECMA 262.
    loose = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        if path.parent.name != "web"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r'pattern=.*\$"', line)
    ]
    assert [] == loose


def test_every_vector_says_where_it_came_from():
    folders = {path.parent for path in (ROOT / "tests" / "vectors").rglob("*") if path.is_file()}
    assert folders
    assert [] == [str(folder) for folder in folders if not (folder / "README.md").is_file()]


def test_locked_requirements_have_hashes_and_name_no_index():
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        pinned = re.findall(r"^[a-z0-9_.-]+==", text, re.MULTILINE | re.IGNORECASE)
        assert len(pinned) > 20
        for block in re.split(r"\n(?=\S)", text.strip()):
            assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_import_contracts_hold():
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout
