"""What is kept is whole or absent, made once, and found again by content."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advbench.store.artifacts import MANIFEST, Store, default_root
from advbench.store.files import sha256, write_atomic, write_json, write_text
from advbench.store.ledger import Ledger
from advbench.store.records import Record, Records

KEY = {"component": "mine/sky", "params": {"depth": "y10"}}
DAY = 24 * 3600


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def writing(text: str = "hello", count: list[int] | None = None, pause: float = 0) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        if count is not None:
            count.append(1)
        (folder / "sub").mkdir()
        (folder / "sub" / "data.txt").write_text(text)
        time.sleep(pause)
        (folder / "more.bin").write_bytes(bytes(1000))

    return make


def aged(path: Path, days: float) -> None:
    past = time.time() - days * DAY
    os.utime(path, (past, past))


def settled(path: Path) -> None:
    """As if the file had been written a while ago."""
    aged(path, 1)


# Files


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "first")

    def fail(temporary: Path) -> None:
        temporary.write_text("half a sec")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fail)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = [list(range(3000)), list(range(3000, 6000))]
    write_json(path, values[0])
    done = threading.Event()

    def write() -> None:
        for i in range(30):
            write_json(path, values[i % 2])
        done.set()

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        while not done.is_set():
            assert json.loads(path.read_text()) in values
        for writer in writers:
            writer.result()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_is_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sha256(tmp_path / "a.json") == sha256(tmp_path / "b.json")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Artifacts


def test_an_artifact_is_made_once_and_found_by_what_it_was_made_from(store: Store) -> None:
    count: list[int] = []
    assert store.find("data", KEY) is None
    path = store.obtain("data", KEY, writing(count=count))
    assert store.obtain("data", KEY, writing("other", count)) == path == store.find("data", KEY)
    assert count == [1]
    assert (path / "sub" / "data.txt").read_text() == "hello"
    for other in ({**KEY, "params": {"depth": "y1"}}, {**KEY, "more": 1}):
        assert store.obtain("data", other, writing(count=count)) != path
    assert store.obtain("network", KEY, writing(count=count)) != path
    assert len(count) == 4
    assert [artifact.kind for artifact in store.artifacts()] == ["data", "data", "data", "network"]


def test_only_one_of_many_makes_it(store: Store) -> None:
    count: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        make = writing(count=count, pause=0.1)
        paths = list(pool.map(lambda _: Store(store.root).obtain("data", KEY, make), range(4)))
    assert count == [1]
    assert len(set(paths)) == 1
    assert list((store.root / "tmp").iterdir()) == []


def test_other_artifacts_need_not_wait(store: Store) -> None:
    inside, finished = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        inside.set()
        assert finished.wait(20)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.obtain, "data", KEY, slow)
        assert inside.wait(20)
        assert store.find("data", KEY) is None
        Store(store.root).obtain("data", {"another": 1}, writing())
        finished.set()
        waiting.result(20)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_not_finished_is_not_there(store: Store, error: type[BaseException]) -> None:
    def die(folder: Path) -> None:
        writing()(folder)
        raise error

    with pytest.raises(error):
        store.obtain("data", KEY, die)
    assert store.find("data", KEY) is None
    assert list(store.artifacts()) == []
    assert list((store.root / "tmp").iterdir()) == []
    assert store.obtain("data", KEY, writing()).is_dir()


def test_a_folder_without_manifest_is_made_again(store: Store) -> None:
    path = store.obtain("data", KEY, writing("old"))
    (path / MANIFEST).unlink()
    assert store.find("data", KEY) is None
    assert (store.obtain("data", KEY, writing("new")) / "sub" / "data.txt").read_text() == "new"


def test_making_one_artifact_may_need_another(store: Store) -> None:
    def student(folder: Path) -> None:
        with store.lock("training"), store.lock("training"):
            store.obtain("network", {"teacher": 1}, writing())

    assert store.obtain("network", {"student": 1}, student).is_dir()
    assert len(list(store.artifacts())) == 2


def damage_content(path: Path) -> None:
    (path / "sub" / "data.txt").write_text("hullo")


def damage_missing(path: Path) -> None:
    (path / "more.bin").unlink()


def damage_cut(path: Path) -> None:
    os.truncate(path / "more.bin", 999)


def damage_manifest(path: Path) -> None:
    (path / MANIFEST).write_text("{")


def damage_list(path: Path) -> None:
    (path / MANIFEST).write_text('{"files": ["a"]}')


def damage_number(path: Path) -> None:
    (path / MANIFEST).write_text("3")


DAMAGE = {
    damage_content: "data.txt: content differs",
    damage_missing: "more.bin: missing",
    damage_cut: "more.bin: content differs",
    damage_manifest: "unreadable manifest",
    damage_list: "unreadable manifest",
    damage_number: "unreadable manifest",
}


@pytest.mark.parametrize(("harm", "words"), DAMAGE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_damage_is_named_and_collected(store: Store, harm: Callable[[Path], None], words: str) -> None:
    sound, hurt = (store.obtain("data", {"key": name}, writing()) for name in ("sound", "hurt"))
    harm(hurt)
    damage = {artifact.path: artifact.damage() for artifact in store.artifacts()}
    assert damage[sound] == []
    assert len(damage[hurt]) == 1
    assert words in damage[hurt][0]
    assert store.collect_garbage(30) == [hurt]
    assert store.find("data", {"key": "sound"}) == sound
    assert not hurt.exists()


def test_garbage_is_what_was_not_used_for_long(store: Store) -> None:
    paths = {name: store.obtain("data", {"key": name}, writing()) for name in ("old", "used", "new")}
    for name in ("old", "used"):
        aged(paths[name] / MANIFEST, 40)
    store.obtain("data", {"key": "used"}, writing())
    cells, orphans = store.root / "cells", store.root / "tmp"
    cells.mkdir()
    for name, days in (("old.json", 40.0), ("old.npz", 40.0), ("new.json", 1.0)):
        (cells / name).write_text("{}")
        aged(cells / name, days)
    for name, days in (("killed", 2.0), ("at work", 0.1)):
        (orphans / name).mkdir()
        aged(orphans / name, days)
    removed = store.collect_garbage(30)
    assert set(removed) == {paths["old"], cells / "old.json", cells / "old.npz", orphans / "killed"}
    assert not any(path.exists() for path in removed)
    assert (orphans / "at work").is_dir()
    assert store.collect_garbage(30) == []
    assert store.find("data", {"key": "used"})


def test_size_and_root(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = store.obtain("data", KEY, writing("hello"))
    (artifact,) = store.artifacts()
    assert artifact.size() == 5 + 1000 + (path / MANIFEST).stat().st_size
    assert artifact.manifest()["made_from"] == KEY
    monkeypatch.setenv("ADVBENCH_CACHE", str(tmp_path / "elsewhere"))
    assert default_root() == tmp_path / "elsewhere"
    monkeypatch.delenv("ADVBENCH_CACHE")
    assert default_root().name == "advbench"


# Content hashes


def test_content_counts_and_the_name_does_not(store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "one.bin", tmp_path / "two.bin"
    one.write_bytes(b"weights")
    value = store.content_hash(one)
    assert value == sha256(one)
    shutil.copy(one, two)
    assert store.content_hash(two) == value
    one.rename(tmp_path / "renamed.bin")
    assert store.content_hash(tmp_path / "renamed.bin") == value


def test_a_changed_file_is_read_again(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"aaaa")
    first = store.content_hash(path)
    # The same size, and on most file systems within the same tick of their clock.
    path.write_bytes(b"bbbb")
    assert store.content_hash(path) == sha256(path) != first
    before = path.stat()
    settled(path)
    second = store.content_hash(path)
    path.write_bytes(b"cccc")
    os.utime(path, ns=(before.st_atime_ns, path.stat().st_mtime_ns))
    assert store.content_hash(path) == sha256(path) != second


def test_a_change_that_keeps_size_and_time_is_seen(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"aaaa")
    settled(path)
    stamp = path.stat()
    first = store.content_hash(path)
    time.sleep(0.02)  # a tick of the file system's clock
    path.write_bytes(b"bbbb")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert store.content_hash(path) == sha256(path) != first


def test_an_unchanged_file_is_read_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advbench.store import artifacts

    path = tmp_path / "data.bin"
    path.write_bytes(b"aaaa")
    settled(path)
    reads: list[Path] = []

    def counting(name: Path) -> str:
        reads.append(name)
        return sha256(name)

    monkeypatch.setattr(artifacts, "sha256", counting)
    monkeypatch.setattr(time, "time_ns", lambda clock=time.time_ns: clock() + 60 * 10**9)  # a minute later
    assert len({Store(store.root).content_hash(path) for _ in range(3)}) == 1
    assert reads == [path]


def test_a_folder_is_its_files_and_their_names(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    value = store.content_hash(folder)
    folder.rename(tmp_path / "pictures")
    folder = tmp_path / "pictures"
    assert store.content_hash(folder) == value
    (folder / "cat" / "2.png").rename(folder / "dog" / "2.png")  # another class
    assert store.content_hash(folder) != value
    (folder / "dog" / "2.png").rename(folder / "cat" / "2.png")
    assert store.content_hash(folder) == value
    (folder / "dog" / "3.png").write_text("")
    assert store.content_hash(folder) != value


# Records

OK = Record("c1", "ok", "", {"n": 3, "clean": 0.5})
OUTCOMES = {
    "id": np.array(["a", "b"]),
    "clean_correct": np.array([True, False]),
    "l2": np.array([0.5, np.inf]),
}


def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "run" / "cells", tmp_path / "store" / "cells"


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(folders(tmp_path))


def same(found: dict[str, Any]) -> bool:
    return set(found) == set(OUTCOMES) and all(np.array_equal(found[name], OUTCOMES[name]) for name in found)


def test_records_survive_their_files(records: Records) -> None:
    assert records.get("c1") is None
    records.put(OK, OUTCOMES)
    assert records.get("c1") == OK
    assert same(records.outcomes("c1"))
    with pytest.raises(FileNotFoundError, match="no outcomes of cell c2"):
        records.outcomes("c2")


def test_the_same_outcomes_are_the_same_bytes(records: Records, tmp_path: Path) -> None:
    records.put(OK, OUTCOMES)
    own, shared = folders(tmp_path)
    first = (own / "c1.npz").read_bytes()
    assert (shared / "c1.npz").read_bytes() == first
    records.put(OK, dict(reversed(OUTCOMES.items())))
    assert (own / "c1.npz").read_bytes() == first


def test_failures_stay_in_the_folder_of_the_run(records: Records, tmp_path: Path) -> None:
    own, shared = folders(tmp_path)
    for status in ("failed", "timeout", "crashed"):
        failure = Record(status, status, "perturb: KeyError: 'x'", {})
        records.put(failure, None)
        assert records.get(status) == failure
        assert Records([shared]).get(status) is None
    records.put(OK, OUTCOMES)
    assert Records([shared]).get("c1") == Records([own]).get("c1") == OK
    records.forget("failed")
    assert records.get("failed") is None
    records.forget("c1")
    assert records.get("c1") == OK  # the shared one
    assert not (own / "c1.npz").exists()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
def test_a_record_with_damaged_outcomes_does_not_count(
    records: Records, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    own, shared = folders(tmp_path)
    records.put(OK, OUTCOMES)
    harm(own / "c1.npz")
    assert Records([own]).get("c1") is None
    # The sound copy stands in for it, with its own outcomes.
    assert records.get("c1") == OK
    assert same(records.outcomes("c1"))
    records.adopt("c1")
    assert Records([own]).get("c1") == OK
    assert same(Records([own]).outcomes("c1"))
    harm(own / "c1.npz")
    harm(shared / "c1.npz")
    assert records.get("c1") is None
    with pytest.raises(FileNotFoundError):
        records.outcomes("c1")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"cell_id": "c1"}', '{"cell_id": "c1", "status": ']
)
def test_a_record_that_is_none_does_not_count(records: Records, tmp_path: Path, text: str) -> None:
    own, _ = folders(tmp_path)
    own.mkdir(parents=True)
    (own / "c1.json").write_text(text)
    assert records.get("c1") is None
    records.put(OK, OUTCOMES)
    assert records.get("c1") == OK


def test_a_kill_between_the_two_files_leaves_no_record(records: Records, tmp_path: Path) -> None:
    records.put(OK, OUTCOMES)
    own, shared = folders(tmp_path)
    changed = {**OUTCOMES, "l2": np.array([1.0, 2.0])}
    Records([tmp_path / "other"]).put(OK, changed)
    for folder in (own, shared):
        shutil.copy(tmp_path / "other" / "c1.npz", folder / "c1.npz")
    assert records.get("c1") is None


def test_a_run_adopts_what_others_computed(records: Records, tmp_path: Path) -> None:
    own, shared = folders(tmp_path)
    Records([shared]).put(OK, OUTCOMES)
    assert Records([own]).get("c1") is None
    records.adopt("c1")
    assert Records([own]).get("c1") == OK
    assert same(Records([own]).outcomes("c1"))
    records.adopt("unknown")
    assert {path.name for path in own.iterdir()} == {"c1.json", "c1.npz"}


def test_the_record_of_the_run_comes_first(records: Records, tmp_path: Path) -> None:
    own, shared = folders(tmp_path)
    Records([shared]).put(OK, OUTCOMES)
    mine = replace(OK, figures={"n": 4})
    Records([own]).put(mine, OUTCOMES)
    assert records.get("c1") == mine


# The ledger


def test_the_ledger_keeps_every_event_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ledger.jsonl"
    ledgers = [Ledger(path), Ledger(path)]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(lambda i: ledgers[i % 2].append({"event": "cell", "i": i, "pad": "x" * 500}), range(60))
        )
    found = list(Ledger(path))
    assert sorted(event["i"] for event in found) == list(range(60))
    assert all(event["time"] > 0 for event in found)
    assert list(Ledger(tmp_path / "none.jsonl")) == []


def test_a_line_cut_off_by_a_kill_costs_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for event in ("one", "two"):
        Ledger(path).append({"event": event})
    os.truncate(path, path.stat().st_size - 5)
    Ledger(path).append({"event": "three"})
    assert [event["event"] for event in Ledger(path)] == ["one", "three"]
