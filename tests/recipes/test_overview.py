"""One table of several experiments, from the files that their runs left."""

import json

import pytest

from recipes.overview import main


def write(out, config, variant, seed, accuracy, *, wall_s=10.0, skipped=0):
    folder = out / config / f"{variant}-seed{seed}"
    folder.mkdir(parents=True)
    result = {"best": {"metric": "accuracy"}, "metrics": {"accuracy": accuracy}, "wall_s": wall_s}
    (folder / "result.json").write_text(json.dumps(result | {"skipped_steps": skipped}))


def test_a_row_for_each_config_and_fp32_first(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.7)):
        write(tmp_path, "one", "fp32", seed, accuracy, wall_s=10 + 4 * seed)
        write(tmp_path, "one", "fp16", seed, accuracy, skipped=1)
    write(tmp_path, "two", "fp32", 0, 0.25)
    write(tmp_path, "two", "fp16", 0, 0.5)
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "| config | metric | fp32 | fp16 | fp32, s | fp16, s | skipped steps |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| one | accuracy | 0.6 ± 0.14 | 0.6 ± 0.14 | 12 | 10 | fp16: 2 |",
        "| two | accuracy | 0.25 | 0.5 | 10 | 10 | 0 |",
    ]


def test_an_empty_folder_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "no OUT/<config>/<variant>-seed<n>/result.json" in capsys.readouterr().err
