"""The house rules that a linter does not know."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_file_and_no_function_is_over_its_budget() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "sizes.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_constraints_pin_what_pyproject_asks_for() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    asked = {word.split(">")[0].split(";")[0].strip().lower() for word in told["dependencies"]}
    assert {name.replace("_", "-") for name in asked} <= {name.replace("_", "-") for name in pinned}


def test_generated_files_are_those_of_the_schema() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_docs
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "recipe.md").read_text() == make_docs.recipe_page()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert recipe.read_text() == make_docs.with_plan(recipe), "the plan in its head is not that of today"


def test_the_readme_names_only_files_that_exist() -> None:
    import re

    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
