"""Checkpoints are whole or not there; damage is found and named."""

import hashlib
import json
import zipfile

import pytest
import torch

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import CapabilityError, CheckpointError


def save(store, step, score=None, value=1.0):
    return store.save(
        {"model": {"w": torch.full((3,), value)}}, step=step, applied_steps=step, attempted_steps=step + 1, score=score
    )


def test_round_trip(tmp_path):
    store = CheckpointStore(tmp_path)
    saved = save(store, 7, score=0.5, value=2.0)
    found = store.latest()
    assert (found.path, found.step, found.score) == (saved.path, 7, 0.5)
    assert torch.equal(checkpoints.load(found.path)["model"]["w"], torch.full((3,), 2.0))


def test_keeps_the_last_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=True)
    for step, score in ((10, 0.3), (20, 0.9), (30, None), (40, 0.5), (50, 0.4)):
        save(store, step, score)
    assert [c.step for c in store.complete()] == [20, 40, 50]
    assert store.best().step == 20


def test_saving_the_same_step_again_replaces_it(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5, value=1.0)
    save(store, 5, score=0.1, value=3.0)
    assert [c.score for c in store.complete()] == [0.1]
    assert checkpoints.load(store.latest().path)["model"]["w"][0] == 3.0


def test_a_run_resumed_from_an_earlier_step_keeps_its_new_checkpoints(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=True)
    for step, score in ((10, 0.3), (20, 0.4), (30, 0.9)):
        save(store, step, score)
    save(store, 15, 0.1)  # resumed at 10: what followed it then is another future
    assert store.latest().step == 15
    assert [c.step for c in store.complete()] == [15]
    save(store, 25, 0.2)
    assert [c.step for c in store.complete()] == [15, 25]


def test_a_folder_without_manifest_is_not_a_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    half = tmp_path / "step-00000009"
    half.mkdir()
    torch.save({}, half / "model.pt")
    assert store.latest().step == 5
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        checkpoints.load(half)


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    store = CheckpointStore(tmp_path)
    (tmp_path / ".saving-step-00000003").mkdir()
    save(store, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_damage_is_found(tmp_path, damage):
    file = save(CheckpointStore(tmp_path), 5).path / "model.pt"
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[:-10])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.pt: (damaged|cannot be read)"):
        checkpoints.load(file.parent)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"\xff\x00",
        b'{"schema": 1}',
        b'{"schema": 1, "applied_steps": "x", "attempted_steps": 1, "score": null, "files": {}}',
        b'{"schema": 1, "applied_steps": 1, "attempted_steps": 1, "score": null, "files": []}',
        b'{"schema": 1, "applied_steps": 1, "attempted_steps": 1, "score": null, "files": {"a.pt": 3}}',
        b'{"schema": 1, "applied_steps": 1, "attempted_steps": 1, "score": null, "files": {"../a.pt": {}}}',
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, content):
    path = save(CheckpointStore(tmp_path), 5).path
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        checkpoints.load(path)


def test_a_newer_schema_is_refused(tmp_path):
    path = save(CheckpointStore(tmp_path), 5).path
    manifest = json.loads((path / "manifest.json").read_text()) | {"schema": 99}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="schema 99"):
        checkpoints.load(path)


def test_loading_never_runs_code(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (print, ("boom",))

    path = save(CheckpointStore(tmp_path), 5).path
    torch.save({"w": Bomb()}, path / "model.pt")
    record = {
        "bytes": (path / "model.pt").stat().st_size,
        "sha256": hashlib.sha256((path / "model.pt").read_bytes()).hexdigest(),
    }
    manifest = json.loads((path / "manifest.json").read_text()) | {"files": {"model.pt": record}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"model\.pt: cannot be read"):
        checkpoints.load(path)
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("odd", [torch.empty(3, device="meta"), torch.eye(3).to_sparse()], ids=["meta", "sparse"])
def test_tensors_without_plain_numbers_are_refused(tmp_path, odd):
    found = CheckpointStore(tmp_path).save(
        {"model": {"w": torch.ones(3)}, "optimizer": {"state": [{"w": odd}]}},
        step=5, applied_steps=5, attempted_steps=5, score=None,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"optimizer\.pt: cannot be read \(it holds a tensor that is sparse"):
        checkpoints.load(found.path)


def test_damage_under_a_checksum_that_holds_is_found_too(tmp_path):
    """Whatever Python raises over a pickle that makes no sense is one line."""
    for number, content in enumerate((b"\x80\x02h\x07.", b"\x80\x02}\x8a", b"\x80\x02]a.", b"\x80\x02X\x01")):
        found = save(CheckpointStore(tmp_path / str(number)), 5).path
        file = found / "model.pt"
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, content if name.endswith("data.pkl") else data)
        manifest = json.loads((found / "manifest.json").read_text())
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest["files"]["model.pt"] = {"bytes": file.stat().st_size, "sha256": checksum}
        (found / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match=r"model\.pt: cannot be read"):
            checkpoints.load(found)


def test_a_failed_save_leaves_the_earlier_one_and_its_space(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    with pytest.raises(AttributeError):
        store.save({"model": {"w": lambda: None}}, step=6, applied_steps=6, attempted_steps=6, score=None)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]
    assert store.latest().step == 5


def test_a_kill_while_a_step_is_replaced_hides_neither(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    save(store, 5, value=1.0)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        save(store, 5, value=3.0)
    fresh = CheckpointStore(tmp_path)
    assert {float(checkpoints.load(c.path)["model"]["w"][0]) for c in fresh.complete()} == {1.0, 3.0}
    save(fresh, 5, value=4.0)
    assert checkpoints.load(fresh.latest().path)["model"]["w"][0] == 4.0


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CapabilityError, match="checkpoints cannot be made"):
        save(CheckpointStore(tmp_path / "checkpoints"), 5)
