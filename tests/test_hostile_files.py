"""Whatever a file holds, it is one clear error, or it says what an honest file would."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toys
from commands import Ran, Spear, assert_one_error, read, runner, seal
from hostile import bytes_changed, changed, mutations, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spear_gym.agents.compare.report import page_of
from spear_gym.agents.compare.run import ARCHIVE, Comparison
from spear_gym.agents.folders import RunError, sums
from spear_gym.boundary.files import FileError
from spear_gym.lre import LREError, SampleStore, fit_line, load_estimator
from spear_gym.studies.lre import LREStudy, Pool

RUN = (
    "search", "--workload", "toys:tiny", "--lre", "none", "--no-repair", "--target", "0.4",
    "--agent", "random", "--budget", "3", "--seed", "3",
)  # fmt: skip
EVALUATE = ("--workload", "toys:tiny")

many = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def command() -> Iterator[Spear]:
    with pytest.MonkeyPatch.context() as patch:
        yield runner(patch)


@pytest.fixture(scope="module")
def finished(command: Spear, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert command(*RUN, "--out", folder).code in (0, 3)
    return folder


@pytest.fixture(scope="module")
def changing(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that every example changes and puts right again."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "changing"))


def assert_refused_or_equal(ran: Ran) -> None:
    """One error, or a table that differs from the recorded row, or the same digits again."""
    assert "Traceback" not in ran.err + ran.out
    assert "\x1b" not in ran.err + ran.out
    if ran.code == 0:
        assert "equal to the recorded row" in ran.out
    elif ran.code == 1:
        assert "the recorded row differs" in ran.err
    else:
        assert_one_error(ran, "")
        assert len(ran.err) < 3000


def evaluated(command: Spear, folder: Path, name: str, content: bytes, *, sealed: bool) -> Ran:
    """What `spear evaluate` says of a run with one file replaced."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / name).write_bytes(content)
    try:
        if sealed:
            _seal(folder)
        return command("evaluate", folder, *EVALUATE)
    finally:
        for path in folder.iterdir():
            path.write_bytes(kept[path.name])


def _seal(folder: Path) -> None:
    """Where the result can still be read."""
    try:
        result = json.loads((folder / "result.json").read_bytes())
        result["sha256"] = sums(folder, result)
        (folder / "result.json").write_bytes(json.dumps(result).encode())
    except (ValueError, TypeError, AttributeError, RecursionError, FileError):
        pass


@many
@given(data=st.data(), sealed=st.booleans())
@pytest.mark.parametrize("name", ["settings.json", "plan.json", "result.json"])
def test_any_change_of_a_run(
    command: Spear, changing: Path, name: str, data: st.DataObject, sealed: bool
) -> None:
    content = data.draw(mutations(read(changing / name)))
    assert_refused_or_equal(evaluated(command, changing, name, content, sealed=sealed))


@many
@given(data=st.data())
def test_any_change_of_a_network(command: Spear, changing: Path, data: st.DataObject) -> None:
    whole = (changing / "network.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def with_header(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + rest

    content = data.draw(mutations(header).map(with_header) | bytes_changed(whole))
    ran = evaluated(command, changing, "network.safetensors", content, sealed=True)
    assert_refused_or_equal(ran)


# Made with an aim.

Change = Callable[[Path], None]


def setting(**values: Any) -> Change:
    def change(folder: Path) -> None:
        found = read(folder / "settings.json")
        found["settings"] |= values
        (folder / "settings.json").write_bytes(written(found))

    return change


def result(*at: str, to: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "result.json"
        path.write_bytes(written(changed(read(path), at, to)))

    return change


def tensor(name: str, value: float, dtype: str = "float32") -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "network.safetensors")
        tensors[name] = (tensors[name] * 0 + value).to(getattr(__import__("torch"), dtype))
        save_file(tensors, folder / "network.safetensors")

    return change


def content(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data) and None


def hole(name: str, size: int) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        import os

        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def device(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return change


HEADER = struct.pack("<Q", 10**12) + b"{}"
HUGE = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
AIMED: dict[str, tuple[Change, str]] = {
    "threads": (setting(threads=100_000), "'threads' is 100000; it must be a whole number in 1 to"),
    "no threads": (setting(threads=0), "'threads' is 0"),
    "seed": (setting(seed=-1), "'seed' is -1"),
    "budget": (setting(budget="many"), "'budget' is 'many'"),
    "scoring": (setting(scoring="best"), "'scoring' is 'best'; it must be one of plain,"),
    "another target": (setting(target=0.3), "'target' is 0.4; it must be that of the settings"),
    "unknown setting": (setting(speed=3), "unknown entry 'speed'"),
    "features": (setting(hidden_features="x"), "'hidden_features' is 'x'; it must be a list"),
    "escape in a name": (setting(workload="\x1b[31m"), "'workload' is '\\x1b[31m'"),
    "escape in a key": (setting(**{"\x1b[31m": 1}), "unknown entry '\\x1b[31m'"),
    "long name": (setting(workload="x" * 10_000), "a printable text of at most 1000 characters"),
    "target nan": (result("target", to="<nan>"), "'target' is nan; it must be a number in 0 to 1"),
    "target -1": (result("target", to=-1), "'target' is -1; it must be a number in 0 to 1"),
    "target 0": (result("target", to=0), "'target' is 0"),
    "target infinite": (result("target", to="<infinity>"), "holds -Infinity, which is no number"),
    "target overflows": (result("target", to="<overflow>"), "holds "),
    "target a text": (result("target", to="0.4"), "'target' is '0.4'"),
    "target true": (result("target", to=True), "'target' is True"),
    "accuracy 2": (result("test", "accuracy", to=2), "'test' is damaged: 'accuracy' is 2"),
    "synops -1": (result("test", "synops", to=-1.0), "'synops' is -1.0"),
    "no synops": (result("test_unpruned", "synops", to=0), "'synops' is 0; it must be a number ab"),
    "parameters": (result("test", "parameters", to=1.5), "'parameters' is 1.5"),
    "fraction": (result("test_synops_fraction", to=0.1), "'test_synops_fraction' is 0.1; it must"),
    "kept": (result("kept", to="yes"), "'kept' is 'yes'"),
    "outcome": (result("outcome", to="perfect"), "'outcome' is 'perfect'"),
    "no test": (result("test", to=[]), "'test' is damaged: it holds []"),
    "digits": (result("paid", to="<digits>"), "holds an integer of 5000 digits"),
    "deep": (result("repairs", to="<deep>"), "levels deep; it may be 32"),
    "nested": (result("repairs", to="<nested>"), "is nested 501 levels deep"),
    "format": (result("format", to="spear-gym result 99"), "is no result of spear-gym"),
    "beta": (tensor("lif1.beta", 0.99), "has another 'lif1.beta' than the workload's network"),
    "threshold": (tensor("lif2.threshold", 9.0), "has another 'lif2.threshold'"),
    "reset": (tensor("lif3.reset_mechanism_val", 2, "int64"), "has another 'lif3.reset_mechanism"),
    "type": (
        tensor("lif3.reset_mechanism_val", 1),
        "has float32 () for 'lif3.reset_mechanism_val'",
    ),
    "nan weight": (
        tensor("conv1.weight", float("nan")),
        "holds NaN or infinite weights in 'conv1.",
    ),
    "other type": (tensor("conv1.weight", 0.0, "float64"), "has float64 ("),
    "other half": (tensor("bn1.bias", 0.0, "bfloat16"), "has bfloat16 ("),
    "long header": (
        content("network.safetensors", HEADER),
        "is no safetensors file, or is damaged",
    ),
    "huge tensor": (
        content("network.safetensors", struct.pack("<Q", len(HUGE)) + HUGE),
        "is no safetensors file, or is damaged",
    ),
    "huge network": (hole("network.safetensors", 2**40), "is larger than the"),
    "huge settings": (hole("settings.json", 2**40), "is larger than the 16 MiB"),
    "huge plan": (hole("plan.json", 2**40), "is larger than the 16 MiB"),
    "zeros": (hole("plan.json", 1000), "damaged or no JSON"),
    "settings a pipe": (pipe("settings.json"), "is no ordinary file"),
    "result a device": (device("result.json"), "is no ordinary file"),
    "plan a pipe": (pipe("plan.json"), "is no ordinary file"),
    "network a device": (device("network.safetensors"), "is no ordinary file"),
    "pickle": (content("network.safetensors", b"\x80\x04cos\nsystem\n."), "no safetensors file"),
    "not text": (content("plan.json", b"\xff\xfe" * 50), "it holds text that is no Unicode"),
    "html": (content("settings.json", b"<script>"), "damaged or no JSON"),
}


@pytest.mark.parametrize("name", AIMED)
def test_aimed_changes_of_a_run(spear: Spear, finished: Path, tmp_path: Path, name: str) -> None:
    change, message = AIMED[name]
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    change(folder)
    if all(path.is_file() and path.stat().st_size < 2**20 for path in folder.iterdir()):
        assert spear("evaluate", folder, *EVALUATE).code == 2, "whose sums are wrong, at the least"
        _seal(folder)
    assert_one_error(spear("evaluate", folder, *EVALUATE), message)


def test_an_honest_run_of_an_earlier_version(spear: Spear, finished: Path, tmp_path: Path) -> None:
    """Without sums, a format of the settings, and what came later."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    found = read(folder / "result.json")
    for key in ("sha256", "outcome", "repairs", "repair_evaluations"):
        del found[key]
    (folder / "result.json").write_text(json.dumps(found))
    asked = read(folder / "settings.json")
    del asked["format"]
    for key in ("repair", "use_slack", "confidence", "extrapolate", "precision"):
        del asked["settings"][key]
    (folder / "settings.json").write_text(json.dumps(asked))
    ran = spear("evaluate", folder, *EVALUATE)
    assert (ran.code, "equal to the recorded row" in ran.out) == (0, True), ran
    seal(folder)
    assert "sha256" not in read(folder / "result.json")


# Archives.


@pytest.fixture(scope="module")
def archive(command: Spear, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the archive of two cells holds."""
    folder = tmp_path_factory.mktemp("comparison")
    run = ("compare", "--workload", "toys:tiny", "--lre", "none", "--targets", "0.5", "--budget", 3)
    ran = command(*run, "--agents", "random", "--seeds", 2, "--workers", 1, "--out", folder)
    assert ran.code == 0, ran
    found: dict[str, Any] = json.loads(gzip.decompress((folder / ARCHIVE).read_bytes()))
    return found


@many
@given(data=st.data())
def test_any_change_of_an_archive(
    archive: dict[str, Any], tmp_path: Path, data: st.DataObject
) -> None:
    path, again = tmp_path / "a.gz", tmp_path / "b.gz"
    text = data.draw(mutations(archive))
    packed = gzip.compress(text, mtime=0)
    path.write_bytes(data.draw(st.just(packed) | bytes_changed(packed)))
    try:
        found = Comparison.load(path)
    except RunError:
        return
    found.save(again)
    assert Comparison.load(again) == found
    assert {record["cell"]["workload"] for record in found.records} <= {"toys:tiny"}
    page_of(found)


def settings_of(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content | {"settings": content["settings"] | values}


def record_of(place: int = 0, **values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        rows = [dict(row) for row in content["records"]]
        rows[place] |= values
        return content | {"records": rows}

    return change


def cell_of(**values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(content: dict[str, Any]) -> Any:
        return record_of(cell=content["records"][0]["cell"] | values)(content)

    return change


ARCHIVES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda _: [], "holds [], not names"),
    "no settings": (lambda c: {k: v for k, v in c.items() if k != "settings"}, "'settings' is mis"),
    "format": (lambda c: c | {"format": "x"}, "its format is not 'spear-gym comparison 1'"),
    "seeds": (settings_of(seeds=10**12), "'seeds' is 1000000000000"),
    "budget": (settings_of(budget=10**15), "'budget' is 1000000000000000"),
    "cells": (settings_of(seeds=90_000, targets=[0.5, 0.4]), "180,000 cells; it may have 100,000"),
    "points": (settings_of(seeds=90_000, budget=10**6), "budget is 1,000,000 for each of 90,000"),
    "targets": (settings_of(targets=["0.5"]), "'targets' is ['0.5']; it must be a list of numbers"),
    "target 0": (settings_of(targets=[0]), "'targets' is [0]; it must be a list of numbers in"),
    "twice": (settings_of(agents=["random", "random"]), "each once, and at least one"),
    "no agents": (settings_of(agents=[]), "each once, and at least one"),
    "agent one level up": (settings_of(agents=["..", "random"]), "'..' cannot be the name of a f"),
    "agent empty": (settings_of(agents=["", "random"]), "'' cannot be the name of a file"),
    "escape": (settings_of(agents=["\x1b[31m", "random"]), "a list of printable texts"),
    "reward": (settings_of(reward="os:system"), "unknown reward 'os:system'"),
    "reward setting": (
        settings_of(reward_settings={"x": 1}),
        "unknown setting of reward 'tar' 'x'",
    ),
    "reward text": (settings_of(reward_settings={"lam": "1"}), "'lam' is '1'"),
    "features": (settings_of(hidden_features=["x"]), "unknown observation feature 'x'"),
    "confidence": (settings_of(confidence=3), "'confidence' is 3"),
    "unknown": (settings_of(speed=1), "unknown entry 'speed'"),
    "workload up": (cell_of(workload=".."), "'..' cannot be the name of a file"),
    "agent up": (cell_of(agent="..", target=0.5), "'..' cannot be the name of a file"),
    "other agent": (cell_of(agent="tpe"), "is no cell of it, or is there twice"),
    "other seed": (cell_of(seed=7), "is no cell of it, or is there twice"),
    "cell twice": (cell_of(seed=1), "is no cell of it, or is there twice"),
    "cell more": (cell_of(path="/"), "unknown entry 'path'"),
    "cell a text": (record_of(cell="x"), "record 0, 'cell' is damaged"),
    "kept": (record_of(kept="x"), "'kept' is 'x'"),
    "accuracy": (record_of(test_accuracy=7), "'test_accuracy' is 7"),
    "accuracies": (record_of(accuracy=[0.5]), "a list of 3 values"),
    "accuracies 2": (record_of(accuracy=[0.5, 0.5, 2]), "a list of numbers in 0 to 1"),
    "accuracies x": (record_of(accuracy=[0.5, 0.5, "x"]), "a list of numbers"),
    "spent": (record_of(spent=[1, 1, 2]), "'spent' is [1, 1, 2]; it must be ascending"),
    "spent much": (record_of(spent=[1, 2, 99]), "whole numbers in 1 to 3"),
    "no points": (record_of(spent=[]), "with one value at least"),
    "plan": (record_of(plan=[1]), "[1] is no plan of"),
    "plan wide": (record_of(plan=[99, 1, 1]), "is no plan of"),
    "plan empty": (record_of(plan=[0, 1, 1]), "is no plan of"),
    "plans": (record_of(plans=[[1, 1, 1], [1, 1, 1], "x"]), "'x' is no plan of"),
    "groups": (record_of(groups=["a"]), "as many as channels"),
    "groups escape": (record_of(groups=["\x1b", "b", "c"]), "a list of printable texts"),
    "channels": (record_of(channels=[]), "as many as channels"),
    "seconds": (record_of(seconds=-1), "'seconds' is -1"),
    "paid": (record_of(1, paid=1.5), "record 1 is damaged: 'paid' is 1.5"),
    "no data": (lambda c: c | {"fingerprints": {}}, "'toys:tiny' is missing"),
    "fingerprints": (lambda c: c | {"fingerprints": {"toys:tiny": {"a": 1}}}, "'a' is 1"),
    "versions": (lambda c: c | {"versions": [1]}, "'versions' is damaged: it holds [1]"),
    "failures": (lambda c: c | {"failures": {"x": 3}}, "'x' is 3"),
    "records": (lambda c: c | {"records": {}}, "'records' is {}; it must be a list"),
    "nan": (record_of(seconds="<nan>"), "holds NaN, which is no number"),
    "deep": (record_of(plans="<deep>"), "levels deep"),
    "digits": (record_of(paid="<digits>"), "an integer of 5000 digits"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_aimed_archives(spear: Spear, archive: dict[str, Any], tmp_path: Path, name: str) -> None:
    change, message = ARCHIVES[name]
    (tmp_path / "top").mkdir()
    path = tmp_path / "top" / ARCHIVE
    path.write_bytes(gzip.compress(written(change(archive))))
    assert_one_error(spear("report", path), message)
    assert_one_error(spear("report", path.parent), message)
    # Neither does a comparison restore its cells.
    run = ("compare", "--workload", "toys:tiny", "--lre", "none", "--targets", "0.5", "--budget", 3)
    ran = spear(*run, "--agents", "random", "--seeds", 2, "--workers", 1, "--out", path.parent)
    assert_one_error(ran, message)
    assert {p.name for p in tmp_path.iterdir()} == {"top"}
    assert {p.name for p in path.parent.iterdir()} == {ARCHIVE}


def test_bombs(spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ARCHIVE
    monkeypatch.setattr("spear_gym.boundary.files.MOST_VALUES", 10**6)
    for content, message in (
        (bytes(2**28 + 1), "unpacks to more than the 256 MiB"),
        (b"[" + b"[]," * 10**6 + b"1]", "more than 1,000,000 values"),
        (b"[" * 10**6, "levels deep"),
    ):
        path.write_bytes(gzip.compress(content, 1))
        assert path.stat().st_size < 2**21
        assert_one_error(spear("report", path), message)


# Fits, studies and samples.


@many
@given(data=st.data())
@pytest.mark.parametrize("family", ["linear", "quadratic"])
def test_any_change_of_a_fit(tmp_path: Path, family: str, data: st.DataObject) -> None:
    samples = toys.on_line(0.9, 0.03, (0.1, 0.3, 0.5, 0.7, 0.9))
    fit = json.loads(json.dumps(fit_line(samples, {"workload": "a"}).to_json()))
    fit["estimator"] = family
    path = tmp_path / "fit.json"
    path.write_bytes(data.draw(mutations(fit)))
    try:
        found = load_estimator(path)
    except LREError as error:
        assert len(str(error)) < 3000  # noqa: PT017
        return
    assert 0.0 <= found.predict(0.5, (0.25, 0.25)) <= found.max_prediction < 1e10
    again = tmp_path / "again.json"
    again.write_text(json.dumps(found.to_json()))
    assert json.dumps(load_estimator(again).to_json()) == json.dumps(found.to_json())


@many
@given(data=st.data())
def test_any_change_of_samples(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "fit.samples.json"
    path.unlink(missing_ok=True)
    store = SampleStore(path, {"workload": "a"})
    for seed, sample in enumerate((*toys.on_line(1.0, 0.0, (0.2, 0.4)), toys.failed())):
        store.add(sample, seed)
    path.write_bytes(data.draw(mutations(read(path))))
    try:
        found = SampleStore(path, {"workload": "a"})
    except LREError:
        return
    assert all(sample.failed or 0.0 <= sample.finetuned < float("inf") for sample in found)


@many
@given(data=st.data())
def test_any_change_of_a_study(tmp_path: Path, data: st.DataObject) -> None:
    samples = tuple(toys.on_line(1.0, 0.0, (0.2, 0.4, 0.6)))
    path, again = tmp_path / "study.gz", tmp_path / "again.gz"
    LREStudy("a", "plain", 2, ("conv1",), (Pool("plain", 2, samples, samples[:1]),)).save(path)
    value = json.loads(gzip.decompress(path.read_bytes()))
    packed = gzip.compress(data.draw(mutations(value)), mtime=0)
    path.write_bytes(data.draw(st.just(packed) | bytes_changed(packed)))
    try:
        found = LREStudy.load(path)
    except LREError:
        return
    found.save(again)
    assert LREStudy.load(again) == found


def test_a_fit_of_a_stranger_on_the_command_line(spear: Spear, tmp_path: Path) -> None:
    fit = json.loads(json.dumps(fit_line(toys.on_line(0.9, 0.0, (0.1, 0.5, 0.9)), {}).to_json()))
    run = ("search", "--workload", "toys:tiny", "--agent", "random", "--out", tmp_path / "run")
    path = tmp_path / "fit.json"
    for content, message in (
        (written(changed(fit, ("weight",), 1e308)), "'weight' is 1e+308"),
        (written(changed(fit, ("weight",), "<overflow>")), "1e999, which is too large"),
        (written(changed(fit, ("estimator",), "os:system")), "unknown estimator 'os:system'"),
        (written(changed(fit, ("samples", 0, "counts"), "<deep>")), "levels deep"),
        (written(changed(fit, ("samples", 0, "finetuned"), -1)), "'finetuned' is -1"),
        (written(changed(fit, ("fit", "samples"), -1)), "'samples' is -1"),
        (written(fit), "this LRE fit belongs to something else"),
    ):
        path.write_bytes(content)
        assert_one_error(spear(*run, "--lre", path), message)
    assert_one_error(spear(*run, "--lre", "/dev/zero"), "is no ordinary file")
    assert not (tmp_path / "run").exists()
