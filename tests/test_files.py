"""Files appear completely or not at all, and their names stay inside their folder."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import pytest
from hypothesis import strategies as st

from jaxseg import files
from jaxseg.files import atomic_file, atomic_folder, only_writer, printable, safe_name, sha256, start_sha256, sweep

NO_PROCESS = 2**22 + 1  # one more than the highest process number that Linux gives


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, GeneratorExit])
def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_file(path) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_temporary_file_that_the_body_removed_is_an_error(tmp_path):
    (tmp_path / "a").write_text("old")

    def write():
        with atomic_file(tmp_path / "a") as temporary:
            temporary.unlink()

    with pytest.raises(FileNotFoundError):
        write()
    assert (tmp_path / "a").read_text() == "old"


def test_a_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("sync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *args: (calls.append("rename"), replace(*args)))
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert calls == ["sync", "rename"]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "deep" / "masks"
    for content in ("first", "second"):
        with atomic_folder(path) as temporary:
            (temporary / f"{content}.txt").write_text(content)
            (temporary / "sub").mkdir()
            (temporary / "sub" / "x").write_text(content)
            assert not (path / f"{content}.txt").exists()
        assert names(path) == [f"{content}.txt", "sub"]
    assert (path / "sub" / "x").read_text() == "second"
    assert names(path.parent) == ["masks"]


@pytest.mark.parametrize("existing", ["folder", "nothing"])
def test_a_failed_folder_leaves_the_old_content(tmp_path, existing):
    path = tmp_path / "masks"
    if existing == "folder":
        path.mkdir()
        (path / "old").write_text("old")

    def write():
        with atomic_folder(path) as temporary:
            (temporary / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == (["masks"] if existing == "folder" else [])
    assert existing == "nothing" or names(path) == ["old"]


def test_the_old_folder_is_restored_if_the_last_rename_fails(tmp_path, monkeypatch):
    path = tmp_path / "masks"
    path.mkdir()
    (path / "old").write_text("old")
    replace, calls = os.replace, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="No space"), atomic_folder(path) as temporary:
        (temporary / "new").write_text("new")
    assert names(tmp_path) == ["masks"]
    assert names(path) == ["old"]


def test_a_folder_replaces_a_file_and_a_link_without_following_it(tmp_path):
    target = tmp_path / "precious"
    target.mkdir()
    (target / "kept").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "broken"):
        with atomic_folder(tmp_path / name) as temporary:
            (temporary / "new").write_text("x")
        assert not (tmp_path / name).is_symlink()
        assert names(tmp_path / name) == ["new"]
    assert names(target) == ["kept"]
    assert names(tmp_path) == ["broken", "file", "link", "precious"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    script = (
        "import pathlib, sys; from jaxseg.files import *; root = pathlib.Path(sys.argv[1])\n"
        "with atomic_file(root / 'file') as t: t.write_text('x')\n"
        "with atomic_folder(root / 'folder') as t: (t / 'x').write_text('x')\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, umask=umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


def test_sweep_removes_only_files_of_dead_processes_of_this_machine(tmp_path):
    prefix = f".jaxseg-{files._HOST}-"
    dead, alive = f"{prefix}{NO_PROCESS}-abc", f"{prefix}{os.getpid()}-abc"
    kept = [alive, f"{prefix}1-abc", f".jaxseg-00000000-{NO_PROCESS}-abc", f"jaxseg-{files._HOST}-{NO_PROCESS}-abc"]
    kept += [f"{prefix}x-abc", f"{prefix}²-abc", f"{prefix}{10**30}-abc", f"{prefix}-1-abc", prefix, "a.npy"]
    for name in (dead + ".npy", *kept):
        (tmp_path / name).write_text("x")
    (tmp_path / dead / "sub").mkdir(parents=True)
    (tmp_path / dead / "sub" / "x").write_text("x")
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / (dead + "-old")).symlink_to(precious)
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*kept, "precious"])
    sweep(tmp_path / "no such folder")


def test_sweep_removes_the_temporary_files_of_a_killed_process(tmp_path):
    script = (
        "import os, pathlib, sys; from jaxseg.files import *; root = pathlib.Path(sys.argv[1])\n"
        "with atomic_file(root / 'file.npy') as a, atomic_folder(root / 'folder') as b:\n"
        "    a.write_text('x'); (b / 'x').write_text('x'); os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    sweep(tmp_path)
    assert names(tmp_path) == []


TEXT = st.text(st.characters(exclude_categories=()), max_size=300)  # with lone surrogates, as in odd file names


@hypothesis.settings(deadline=None, max_examples=500)
@hypothesis.given(TEXT | st.text("./\\ a\0\n\x85é\ud800", max_size=300))
@hypothesis.example("..")
@hypothesis.example("../../etc/passwd")
@hypothesis.example("a" * 199 + " b")
@hypothesis.example("é" * 101)
def test_any_text_becomes_one_name_inside_its_folder(text):
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert os.path.basename(name) == name
    assert "\\" not in name
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
    assert name == name.strip(" .")
    assert len(name.encode("utf-8")) <= 200
    assert safe_name(name) == name


def test_the_file_system_accepts_the_longest_names(tmp_path):
    for text in ("x" * 400, "日本" * 200, "CON", "\ud800", "-rf", "~", "$(x)"):
        with atomic_file(tmp_path / (safe_name(text) + ".jpeg.json")) as temporary:
            temporary.write_text("x")
    assert len(names(tmp_path)) == 7


@pytest.mark.parametrize("label", ["vertebrae T1", "rib_cartilage", "posterior 12th rib right", "Ünïcode 日本"])
def test_usual_labels_stay_unchanged_as_names(label):
    assert safe_name(label) == label


def test_a_digest_that_was_started_is_that_of_the_content_when_it_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"abc")
    wanted, computed = sha256(tmp_path / "a"), []
    with ThreadPoolExecutor(1) as thread:
        start_sha256(tmp_path / "a", thread)
    monkeypatch.setattr(files, "_sha256", lambda path: computed.append(path) or "again")
    assert (sha256(tmp_path / "a"), computed) == (wanted, [])
    assert sha256(tmp_path / "a") == "again"  # a digest serves one call
    with ThreadPoolExecutor(1) as thread:
        start_sha256(tmp_path / "a", thread)
    (tmp_path / "a" / "b").write_bytes(b"abcd")
    assert sha256(tmp_path / "a") == "again"
    assert len(computed) == 3


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_the_digest_of_a_folder_depends_on_names_and_contents_only(tmp_path):
    def digest(number: int, content: dict[str, str]) -> str:
        for name, text in content.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return sha256(tmp_path / str(number))

    base = {"a": "1", "sub/b": "2"}
    same = digest(0, base)
    assert digest(1, dict(reversed(base.items()))) == same
    others = [
        {"a": "1", "sub/b": "3"},
        {"a": "1", "sub/c": "2"},
        {"a": "1", "b": "2"},
        {"a": "1"},
        {"a": "12", "b": ""},
    ]
    digests = {digest(2 + i, other) for i, other in enumerate(others)}
    assert len(digests | {same}) == 1 + len(others)


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with (
        only_writer(tmp_path),
        pytest.raises(ValueError, match="another run is writing into"),
        only_writer(tmp_path),
    ):
        pass
    with only_writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_file_and_not_the_temporary_file(tmp_path):
    for write in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="No space left") as caught, write(tmp_path / "wanted"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert caught.value.filename == str(tmp_path / "wanted")


def test_printable_text_has_no_control_characters():
    assert printable("a\x1b[31m\u202eb\n\u00e4") == "a\\x1b[31m\\u202eb\\n\u00e4"


@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_calls_that_a_file_system_lacks_are_left_out(tmp_path, monkeypatch, write, number):
    def lacking(*_, **__):
        raise OSError(number, os.strerror(number))

    for name in ("fsync", "chmod"):
        monkeypatch.setattr(os, name, lacking)
    with write(tmp_path / "a") as temporary:
        (temporary if write is atomic_file else temporary / "x").write_text("x")
    assert names(tmp_path) == ["a"]
    assert not files.can_sync(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_file_that_cannot_be_stored_is_an_error(tmp_path, monkeypatch, number):
    def failing(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(number)), atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert names(tmp_path) == []


def test_a_full_disk_is_recognised_behind_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, OSError(errno.EDQUOT, "quota")):
        assert files.is_full(error)
    outer = ValueError("the model could not be written")
    outer.__cause__ = full
    assert files.is_full(outer)
    assert not files.is_full(OSError(errno.ENOENT, "no file"))
    assert not files.is_full(None)


def test_an_array_of_which_only_a_part_was_written_means_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(tmp_path / "a"):
        raise OSError("393216 requested and 73600 written")  # as NumPy says it
    assert caught.value.filename == str(tmp_path / "a")


def test_links_of_a_tree_are_followed_once(tmp_path):
    disk, tree = tmp_path / "disk", tmp_path / "tree"
    (disk / "deep").mkdir(parents=True)
    (disk / "deep/a.png").write_text("x")
    tree.mkdir()
    (tree / "link").symlink_to(disk)
    (disk / "deep/circle").symlink_to(tree)
    found = [folder / name for folder, _, file_names in files.walk(tree) for name in file_names]
    assert found == [tree / "link/deep/a.png"]


def test_json_of_unknown_origin_is_read_with_a_byte_order_mark_and_refused_with_a_reason(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, "\xc3\xa4"]}')
    assert files.read_json(path) == {"a": [1, "ä"]}
    for content, reason in (
        ('["ä"]'.encode("utf-16"), "UTF-16 or UTF-32; save it as UTF-8"),
        ('["ä"]'.encode("utf-32"), "UTF-16 or UTF-32; save it as UTF-8"),
        ('["ä"]'.encode("latin-1"), r"not UTF-8 \(byte 2\)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" + b"9" * 6_000 + b"]", "a number with thousands of digits"),
        (b"[1", "Expecting"),
        (b"9" * 5000, "digits"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            files.read_json(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="it has more than 5 bytes"):
        files.read_json(path, most=5)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "nothing.json")
