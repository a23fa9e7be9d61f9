"""Unpacking of untrusted archives."""

import io
import os
import tarfile
import zipfile

import pytest

from ast_keras.data.downloads import archives
from ast_keras.data.downloads.archives import ArchiveError, unpack


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
def test_unpack_writes_every_file(make, tmp_path, folder):
    members = {"./a.txt": b"one", "sub/deeper/b.bin": bytes(3_000_000), "sub/empty": b""}
    unpack(make(tmp_path / "archive", members), folder, max_bytes=3_000_003)
    expected = {"a.txt": b"one", "sub/deeper/b.bin": bytes(3_000_000), "sub/empty": b""}
    assert files_of(folder) == expected


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
def test_unpack_strips_a_single_top_level_folder(make, tmp_path, folder):
    members = {"farm/farm": b"of its own name", "farm/meta/hens.csv": b"hen"}
    unpack(make(tmp_path / "archive", members), folder, max_bytes=1000)
    assert files_of(folder) == {"farm": b"of its own name", "meta/hens.csv": b"hen"}


def paths_outside(folder):
    return {path for path in folder.parent.rglob("*") if folder not in path.parents}


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt"])
def test_unpack_rejects_a_name_outside_of_the_folder(make, name, tmp_path, folder):
    archive = make(tmp_path / "archive", {"first": b"1", name: b"2"})
    before = paths_outside(folder)
    with pytest.raises(ArchiveError, match="has a file outside of its folder"):
        unpack(archive, folder, max_bytes=1000)
    assert paths_outside(folder) == before


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["{}/out.txt", "a\\..\\..\\out.txt", "C:/out.txt"])
def test_unpack_writes_absolute_and_windows_names_into_the_folder(make, name, tmp_path, folder):
    archive = make(tmp_path / "archive", {"first": b"1", name.format(tmp_path): b"2"})
    before = paths_outside(folder)
    unpack(archive, folder, max_bytes=1000)
    assert paths_outside(folder) == before
    assert sorted(files_of(folder).values()) == [b"1", b"2"]


@pytest.mark.parametrize("name", [".", "a/", "nul\0byte", "x" * 5000])
def test_unpack_of_an_unusable_name_is_an_os_error(name, tmp_path, folder):
    archive = make_tar(tmp_path / "archive", {"first": b"1", name: b"2"})
    try:
        unpack(archive, folder, max_bytes=1000)
    except OSError:  # an ArchiveError is one
        return
    assert set(files_of(folder).values()) == {b"1", b"2"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_unpack_makes_no_links_or_devices_of_a_tar(kind, tmp_path, folder):
    with tarfile.open(tmp_path / "archive", "w") as file:
        link = tarfile.TarInfo("sub")
        link.type, link.linkname = kind, str(tmp_path)
        file.addfile(link)
        info = tarfile.TarInfo("sub/planted")
        info.size = 4
        file.addfile(info, io.BytesIO(b"here"))
    unpack(tmp_path / "archive", folder, max_bytes=1000)
    assert files_of(folder) == {"planted": b"here"}
    assert not (tmp_path / "planted").exists()


def test_unpack_makes_no_links_of_a_zip(tmp_path, folder):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr(link, str(tmp_path))
        file.writestr("a.txt", "one")
    unpack(tmp_path / "archive", folder, max_bytes=1000)
    assert files_of(folder) == {"a.txt": b"one"}


@pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar.gz"])
def test_unpack_stops_at_the_bound(make, tmp_path, folder):
    archive = make(tmp_path / "archive", {"zeros": bytes(5_000_000)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="holds more than 1000000 bytes"):
        unpack(archive, folder, max_bytes=1_000_000)
    assert sum(len(content) for content in files_of(folder).values()) <= 1_000_000


def test_unpack_stops_at_the_largest_number_of_files(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_FILES", 2)
    archive = make_tar(tmp_path / "archive", {name: b"" for name in "abc"})
    with pytest.raises(ArchiveError, match="holds more than 2 files"):
        unpack(archive, folder, max_bytes=1000)


def test_unpack_does_not_trust_the_sizes_that_a_zip_states(tmp_path, folder):
    archive = make_zip(tmp_path / "archive", {"zeros": bytes(5_000_000)})
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(signature) + offset
        data[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(ArchiveError):
        unpack(archive, folder, max_bytes=1_000_000)


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
def test_unpack_names_a_damaged_archive(mode, tmp_path, folder):
    noise = os.urandom(300_000)
    path = tmp_path / "archive"
    if mode == "zip":
        data = bytearray(make_zip(path, {"a": noise}).read_bytes())
        data[150_000] ^= 1  # the checksum no longer matches
    else:
        data = make_tar(path, {"a": noise}, mode).read_bytes()[:150_000]
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=f"{path} is damaged"):
        unpack(path, folder, max_bytes=10**6)


def test_unpack_names_what_is_no_archive(tmp_path, folder):
    (tmp_path / "archive").write_text("<html>Please log in</html>")
    with pytest.raises(ArchiveError, match="archive is damaged"):
        unpack(tmp_path / "archive", folder, max_bytes=1000)


@pytest.mark.parametrize("second", ["a", "a/b", "./a"])
def test_unpack_rejects_two_files_of_one_name(second, tmp_path, folder):
    archive = tmp_path / "archive"
    with tarfile.open(archive, "w") as file:
        for name in ("a", second):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ArchiveError, match="two files of the same name"):
        unpack(archive, folder, max_bytes=1000)
