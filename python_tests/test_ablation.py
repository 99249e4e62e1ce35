"""Ablations: rows over a base, stages shared where they are the same, the table."""

import dataclasses
import itertools
import json

import pytest
from tiny_run import write_tiny_recipe

from toplight_ext import cli
from toplight_ext.errors import InputError
from toplight_ext.training import ablate, installed_recipes, load_recipe
from toplight_ext.training.ablation import AblationRow, ablation_table, shared_stages
from toplight_ext.training.recipe_files import load_row

ROWS = sorted(name for name in installed_recipes() if "/" in name)


def test_rows_of_table_3_add_one_part_each():
    rows = [load_row(installed_recipes()[name], base="demo") for name in ROWS if name.startswith("table3/")]
    stages = [row.stages for row in rows]
    assert stages == [("pretrain", "vi"), *[("pretrain", "top", "vi")] * 3, *[("pretrain", "top", "soup", "vi")] * 3]
    assert [(row.top.kl_weight > 0, row.top.domain_weight > 0) for row in rows[1:5]] == [
        (False, False),
        (True, False),
        (True, True),
        (True, True),
    ]
    assert [row.model.neck for row in rows] == [*["gap"] * 5, "fdr_unattended", "fdr"]
    full = load_recipe("demo")
    assert dataclasses.replace(rows[-1], name="demo") == full
    # Everything before the row's own part is trained once.
    assert [len(shared_stages(row, before)) for before, row in itertools.pairwise(rows)] == [1, 1, 1, 2, 3, 3]


def test_an_override_does_not_bring_back_what_a_row_takes_away():
    path = installed_recipes()["table3/1_pretraining"]
    recipe = load_row(path, ["top.epochs=3", "vi.epochs=3", "model.neck=hap"], base="demo")
    assert recipe.top is None and recipe.vi.epochs == 3 and recipe.model.neck == "gap"


def test_a_base_needs_a_place():
    with pytest.raises(InputError, match="has no base which 'sysu'"):
        load_recipe("demo", base="sysu")
    assert load_recipe("agw", base="regdb", overrides=["name=x"]).data.name == "regdb"


def test_an_ablation_that_cannot_end_does_not_begin(tmp_path):
    """No seed, a seed that would be passed over in silence, and a last row that no network can be made of."""
    base, table, out = write_tiny_recipe(tmp_path), tmp_path / "table", tmp_path / "out"
    table.mkdir()
    for row, neck in (("1", "gap"), ("2", "gapp")):
        (table / f"{row}.toml").write_text(f'base = "base"\nname = "{row}"\nmodel = {{ neck = "{neck}" }}\n')
    with pytest.raises(InputError, match="seeds = 0"):
        ablate(str(table), out, base=base, seeds=0)
    with pytest.raises(InputError, match="--seeds"):
        ablate(str(table), out, base=base, overrides=["seed=7"])
    with pytest.raises(InputError, match="unknown neck 'gapp'"):
        ablate(str(table), out, base=base)
    assert not out.exists()


def test_stages_are_not_shared_across_seeds_or_data():
    one = load_recipe("demo")
    assert shared_stages(one, one) == one.stages
    assert shared_stages(dataclasses.replace(one, seed=1), one) == ()
    other_data = dataclasses.replace(one, data=dataclasses.replace(one.data, root="elsewhere"))
    assert "vi" not in shared_stages(other_data, one)
    longer = dataclasses.replace(one, top=dataclasses.replace(one.top, epochs=99))
    assert shared_stages(longer, one) == ("pretrain",)


def test_table_has_mean_and_sample_standard_deviation():
    row = AblationRow("FDR", {"r1": [0.5, 0.54], "mAP": [0.4, 0.4], "mINP": [0.1, 0.3]})
    assert ablation_table([row]).splitlines()[2] == "| FDR | 52.0 ± 2.8 | 40.0 ± 0.0 | 20.0 ± 14.1 | 2 |"


def test_an_ablation_runs_shares_and_goes_on(tmp_path):
    """Two rows that share their pretraining, then a third one: what is there stays as it is."""
    table = tmp_path / "table"
    table.mkdir()
    base = write_tiny_recipe(tmp_path)
    (table / "1_plain.toml").write_text('base = "base"\nname = "plain"\nmodel = { neck = "gap" }\n')
    (table / "2_fdr.toml").write_text('base = "base"\nname = "FDR"\nmodel = { neck = "fdr" }\n')
    out = tmp_path / "out"
    rows = ablate(str(table), out, base=base, overrides=["soup=false", "top=false"], seeds=1)
    assert [row.name for row in rows] == ["plain", "FDR"] and "| FDR |" in (out / "table.md").read_text()
    stages = [json.loads((out / row / "seed_0" / "stages.json").read_text()) for row in ("1_plain", "2_fdr")]
    assert stages[0][0] == stages[1][0] and stages[0][0]["stage"] == "pretrain"
    logs = [(out / row / "seed_0" / "metrics.jsonl").read_text().splitlines() for row in ("1_plain", "2_fdr")]
    of_pretrain = [[line for line in log if '"pretrain"' in line] for log in logs]
    assert of_pretrain[0] == of_pretrain[1] != []
    first = (out / "1_plain" / "seed_0" / "vi.safetensors").stat().st_mtime_ns
    (table / "3_hap.toml").write_text('base = "base"\nname = "HAP"\nmodel = { neck = "hap" }\n')
    again = ablate(str(table), out, base=base, overrides=["soup=false", "top=false"], seeds=1)
    assert again[:2] == rows and again[2].name == "HAP"
    assert (out / "1_plain" / "seed_0" / "vi.safetensors").stat().st_mtime_ns == first
    (table / "3_hap.toml").write_text('base = "base"\nname = "HAP"\nmodel = { neck = "gem" }\n')
    with pytest.raises(InputError, match="3_hap/seed_0 holds a run of another recipe"):
        ablate(str(table), out, base=base, overrides=["soup=false", "top=false"], seeds=1)


def test_a_training_that_fails_is_noted_and_the_others_go_on(tmp_path, capsys):
    """A row whose last stage diverges; the next one takes over what it had finished. A later call tries it again."""
    base, table, out = write_tiny_recipe(tmp_path), tmp_path / "table", tmp_path / "out"
    table.mkdir()
    wild = "vi = { optimiser = { learning_rate = 1e9 } }"
    (table / "1.toml").write_text(f'base = "base"\nname = "wild"\n{wild}\n')
    (table / "2.toml").write_text('base = "base"\nname = "tame"\n')
    command = ["ablate", str(table), "--out", str(out), "--seeds", "1", "--base", str(base)]
    command += ["--set", "soup=false", "--set", "top=false"]
    assert cli.main(command) == 1
    head, _, first, second = (out / "table.md").read_text().splitlines()
    assert head == "|  | rank-1 | mAP | mINP | seeds |"
    assert first.startswith("| wild |  |  |  | 0; seed 0 failed: stage vi, step ")
    assert second.startswith("| tame | ") and second.endswith(" | 1 |")
    left = [json.loads((out / row / "seed_0" / "stages.json").read_text()) for row in ("1", "2")]
    assert left[0] == left[1][:1] and left[0][0]["stage"] == "pretrain"
    before = (out / "2" / "seed_0" / "vi.safetensors").stat().st_mtime_ns
    (out / "table.md").unlink()
    assert cli.main([*command, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert rows[0]["failures"][0].startswith("seed 0 failed: stage vi, step ") and not rows[1]["failures"]
    assert (out / "2" / "seed_0" / "vi.safetensors").stat().st_mtime_ns == before
    assert (out / "table.md").read_text().splitlines()[3] == second


def test_rows_that_differ_in_their_names_alone_are_refused(tmp_path):
    table = tmp_path / "table"
    table.mkdir()
    for row, name in (("1", "plain"), ("2", "+ nothing")):
        (table / f"{row}.toml").write_text(f'base = "demo"\nname = "{name}"\n')
    with pytest.raises(InputError, match="the rows 1 and 2 differ in their names alone"):
        ablate(str(table), tmp_path / "out")


@pytest.mark.parametrize("table", sorted({name.partition("/")[0] for name in ROWS}))
def test_a_row_is_what_its_name_says_over_a_base_that_lacks_it(table):
    """No TOP, no soup and another neck below."""
    sets = ["data.name=csv", "data.root=x", "test.name=csv", "test.root=x"]
    pretraining = "pretraining_data={name='folder', root='x'}"
    paths = {name: path for name, path in installed_recipes().items() if name.startswith(f"{table}/")}
    below = [*sets, pretraining, "top=false", "soup=false", "model.neck=parts", "model.pretrained=w.pth"]
    rows = {name: load_row(path, below) for name, path in paths.items()}
    assert len({dataclasses.replace(row, name="row") for row in rows.values()}) == len(rows)
    for name, row in rows.items():
        assert row.model.neck != "parts", name
        if "TOPLight" in row.name:
            assert row.stages == ("top", "soup", "vi") and row.model.neck == "fdr", name
            assert row.top.path1.colour and row.top.path2.texture, name
    assert table != "table8" or rows["table8/3_toplight"].model.pretrained is True
