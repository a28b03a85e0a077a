"""Tar shards: samples are found by their headers and read in place; what is damaged is named."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from mptrain.data.tar_shards import Extent, read_member, shard_paths, tar_samples
from mptrain.errors import ConfigError, DataError
from tests.data.shards import sample, write_tar


def contents(path: Path) -> dict[str, dict[str, bytes]]:
    return {s.key: {name: read_member(path, place) for name, place in s.members.items()} for s in tar_samples(path)}


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_one_name_are_a_sample_in_every_tar_format(tmp_path: Path, layout: int) -> None:
    long = f"folder/{'n' * 90}"
    members = [
        ("a.jpg", b"A" * 700),
        ("a.cls", b"3"),
        ("b.seg.PNG", b"B"),
        ("b.jpg", b""),
        (f"{long}.jpg", b"C"),
        ("other/a.jpg", b"D"),
    ]
    path = write_tar(tmp_path / "x.tar", members, format=layout)
    assert contents(path) == {
        "a": {"jpg": b"A" * 700, "cls": b"3"},
        "b": {"seg.png": b"B", "jpg": b""},
        long: {"jpg": b"C"},
        "other/a": {"jpg": b"D"},
    }


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
        for name in ("a..b/c.jpg", ".hidden", "README"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert contents(path) == {"a..b/c": {"jpg": b"x"}}


@pytest.mark.parametrize("name", ["../../up.jpg", "a/../../up.jpg", "/absolute.jpg", ".."])
def test_an_archive_that_names_places_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match=r"x\.tar: its member '.*' lies outside of it"):
        contents(path)


def three_samples(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "x.tar", [m for i in range(3) for m in sample(i)])


def damaged(tmp_path: Path, how: str) -> Path:
    path = three_samples(tmp_path)
    content = bytearray(path.read_bytes())
    second = next(s for s in tar_samples(path) if s.key == "000001").members["png"]
    if how == "header":
        content[second.offset - 512 : second.offset - 412] = b"\xff" * 100
    elif how == "in a member":
        del content[second.offset + 10 :]
    elif how == "between members":
        del content[second.offset - 512 :]
    elif how == "in a header":
        del content[second.offset - 300 :]
    elif how == "no end":
        last = list(tar_samples(path))[-1].members["cls"]
        del content[last.offset + 512 :]
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("how", ["header", "in a member", "between members", "in a header", "no end"])
def test_a_damaged_shard_is_named_and_not_taken_for_a_short_one(tmp_path: Path, how: str) -> None:
    path = damaged(tmp_path, how)
    with pytest.raises(DataError, match=r"x\.tar: (damaged or cut short|no tar file)") as caught:
        list(tar_samples(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_shard_is_named(tmp_path: Path) -> None:
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(three_samples(tmp_path).read_bytes()))
    for path, words in (
        (packed, "unpack a compressed one"),
        (tmp_path / "absent.tar", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            list(tar_samples(path))
        assert str(path) in str(caught.value)
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"")
    with pytest.raises(DataError, match="no tar file"):
        list(tar_samples(empty))
    assert list(tar_samples(write_tar(tmp_path / "none.tar", []))) == []


def test_two_members_of_one_extension_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("a.JPG", b"2")])
    with pytest.raises(DataError, match=r"a has two members \.jpg"):
        list(tar_samples(path))


def test_a_shard_that_shrinks_during_the_run_is_named(tmp_path: Path) -> None:
    path = three_samples(tmp_path)
    with pytest.raises(DataError, match="is shorter than when its members were listed"):
        read_member(path, Extent(path.stat().st_size - 3, 4))


def test_patterns_count_choose_and_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t-2.tar", "t-10.tar", "v-1.tar"):
        Path(name).touch()

    def names(pattern: str) -> list[str]:
        return [str(path) for path in shard_paths("data.train", pattern)]

    assert names("t-{008..011}.tar") == ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]
    assert names("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert names("t-*.tar") == ["t-10.tar", "t-2.tar"]
    assert names("{t,v}-?.tar") == ["t-2.tar", "v-1.tar"]
    for pattern in ("w-*.tar", "t-{5..4}.tar"):
        with pytest.raises(DataError, match=r"data\.train: .* matches no file"):
            names(pattern)
    with pytest.raises(ConfigError, match="stands for over 100,000 files"):
        names("t-{0..99999999999}.tar")
