"""The peers' tables are those of the results; misses are shown as misses."""

import json
import pkgutil

import pytest

from experiments import peers
from experiments.peers import table


def test_the_readme_shows_what_the_results_hold():
    readme = table.README.read_text(encoding="utf-8")
    stale = "python -m experiments.peers table writes it anew"
    assert table.with_summaries(readme) == readme, stale
    for platform in table.PLATFORMS:
        written = (table.RESULTS / platform / "peers.md").read_text(encoding="utf-8")
        assert table.everything(table.comparisons(platform)) == written, stale


def test_every_benchmark_is_in_the_tables():
    modules = {module.name for module in pkgutil.iter_modules(peers.__path__)}
    assert set(table.BENCHMARKS) == modules - {"__main__", "measure", "table"}
    files = {path.stem for path in (table.RESULTS / "cpu").glob("*.json")}
    assert set(table.BENCHMARKS) == files - {"claims", "reliability", "run"}
    assert {path.parent.name for path in table.RESULTS.glob("*/*.json")} == {*table.PLATFORMS}


FILES = [path for path in table.RESULTS.glob("*/*.json") if path.stem in table.BENCHMARKS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_ratios_are_those_of_the_files(path):
    name, report = path.stem, json.loads(path.read_text(encoding="utf-8"))
    found = list(table.BENCHMARKS[name](report))
    assert all(one.ratio > 0 for one in found)
    assert all(one.seconds > 0 for one in found)
    numbers = json.dumps(report)
    assert all(str(one.flops) in numbers for one in found if one.flops)


def test_a_miss_is_shown_as_one():
    one = table.Comparison("f", "a case", "peer", 2.0, 1.2, target=1.5, accuracy="as accurate")
    other = one._replace(case="another", ratio=1.6, accuracy="less accurate")
    assert "| `f` | peer, less accurate in 1 of 2 |" in table.summary([one, other])
    assert "1.40 (1.20 to 1.60)" in table.summary([one, other])
    assert "| ≥ 1.5 | 1 of 2 |" in table.summary([one, other])
    assert table.everything([one, other]).count("missed") == 1
    assert table.summary([one, one._replace(target=None, peer="other")]).count("\n") == 3
    faster = one._replace(target=None, peer="other", ratio=0.9)
    assert "| other | 0.90 |  |  |  |  |\n" in table.summary([one, faster])
    assert "ours" not in table.summary([one, faster._replace(peer="lintoolkit, ours")])[60:]
    assert table.summary([one._replace(target=None)]).endswith("| 1.20 |  |  |\n")
