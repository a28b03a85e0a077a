"""One table of several configs, from the folders of their runs."""

import pytest

from recipes.overview import main
from tests.report.folders import write_run


def write(out, config, variant, seed, accuracy, **result):
    folder = out / config / f"{variant}_seed-{seed}"
    write_run(folder, variant, seed, accuracy, settings={"name": config, "model": {"name": config}}, **result)


def test_a_row_for_each_config_and_fp32_first(tmp_path, capsys):
    for seed, accuracy in enumerate((0.5, 0.7)):
        write(tmp_path, "one", "fp32", seed, accuracy, wall_s=10.0 + 4 * seed)
        write(tmp_path, "one", "fp16", seed, accuracy, skipped_steps=1)
    write(tmp_path, "two", "fp32", 0, 0.25)
    write(tmp_path, "two", "fp16", 0, 0.5)
    write(tmp_path, "two", "bf16", 0, 0.125)
    main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "| config | metric | fp32 | fp16 | bf16 | fp32, s | fp16, s | bf16, s | skipped steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| one | accuracy | 0.6 ± 0.14 | 0.6 ± 0.14 | n/a | 12 | 1 | n/a | fp16: 2 |",
        "| two | accuracy | 0.25 | 0.5 | 0.125 | 1 | 1 | 1 | 0 |",
    ]


def test_an_empty_folder_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert "no run is in it" in capsys.readouterr().err
