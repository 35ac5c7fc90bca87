"""A training run that is stopped, or killed, and taken up again ends with the same weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
import toys
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spear_gym.checkpoint import Checkpoint, CheckpointError, remove_checkpoints
from spear_gym.data.splits import Split
from spear_gym.evaluation import PlanEvaluator
from spear_gym.snn.graph import SpikingGraph
from spear_gym.snn.trace import trace
from spear_gym.training import Recipe, train
from spear_gym.workload import Workload

EPOCHS, STEPS = 4, 2
ADAM = Recipe(EPOCHS, batch_size=8, lr=0.01, warmup=0.3, weight_decay=0.01, shift=1)
SGD = replace(ADAM, optimizer="sgd")


class Dropping(nn.Module):
    """Random in its order, shifts and dropout, and with BatchNorm's running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.lif = snn.Leaky(beta=0.5, init_hidden=True)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.lif(self.norm(self.conv(x))).flatten(1)))  # type: ignore[no-any-return]


def made() -> tuple[SpikingGraph, Split]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        inputs = torch.rand(36, 1, 6, 6)  # 4 batches of 8 and a rest
        return trace(Dropping(), inputs[:4]), Split(inputs, torch.arange(36) % 3)


def run(
    path: Path | None, recipe: Recipe, on_batch: Any = None, seed: int = 5
) -> dict[str, Tensor]:
    graph, split = made()
    checkpoint = None if path is None else Checkpoint(path, {"network": "dropping"})
    train(graph, split, STEPS, recipe, seed=seed, on_batch=on_batch, checkpoint=checkpoint)
    return graph.model.state_dict()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class Stopped(Exception):  # noqa: N818 - what happened
    pass


def stop_at(batch: int, seen: list[tuple[int, float]]) -> Callable[[int, int, float], None]:
    def on_batch(done: int, total: int, loss: float) -> None:
        assert total == 4 * EPOCHS
        seen.append((done, loss))
        if done == batch:
            raise Stopped

    return on_batch


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("batch", [3, 5, 8, 15, 16])
def test_stopped_and_resumed_equals_undisturbed(tmp_path: Path, recipe: Recipe, batch: int) -> None:
    path, losses, seen = tmp_path / "kept.safetensors", [], []
    expected = run(None, recipe, lambda done, _, loss: losses.append((done, loss)))
    with pytest.raises(Stopped):
        run(path, recipe, stop_at(batch, seen))
    before = torch.get_rng_state()
    assert_same(run(path, recipe, stop_at(-1, seen)), expected)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers go on"
    again = (batch - 1) // 4 * 4  # the epoch that was not complete, and no more
    assert [done for done, _ in seen] == [*range(1, batch + 1), *range(again + 1, 17)]
    assert set(seen) == set(losses)
    # The last epoch has one too: what is lost behind it costs no epoch.
    seen.clear()
    assert_same(run(path, recipe, stop_at(-1, seen)), expected)
    assert seen == []


def killed(path: Path, batch: int) -> None:
    """Trains in a child that is killed in a batch."""
    child = os.fork()
    if child == 0:
        try:
            run(path, ADAM, lambda done, *_: done == batch and os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_killed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    for batch in (2, 6, 7, 13):
        killed(path, batch)
        assert path.exists() == (batch > 4)
    assert_same(run(path, ADAM), run(None, ADAM))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("recipe", {"recipe": replace(ADAM, lr=0.02)}, r"recipe\.lr was 0\.01, is 0\.02"),
    ("length", {"recipe": replace(ADAM, epochs=5)}, r"batches was 16, is 20; recipe\.epochs was 4"),
    ("optimizer", {"recipe": SGD}, r"recipe\.optimizer was adam, is sgd"),
    ("seed", {"recipe": ADAM, "seed": 6}, "seed was 5, is 6"),
]


@pytest.mark.parametrize(("given", "said"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_of_another_run(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    path = tmp_path / "kept.safetensors"
    run(path, ADAM)
    content = path.read_bytes()
    message = f"'{path}' cannot be gone on from: it is of another training run .*{said}.*remove it"
    with pytest.raises(CheckpointError, match=message):
        run(path, **given)
    assert path.read_bytes() == content


def rewritten(path: Path, tensors: dict[str, Tensor], **note: str) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        before = file.metadata()
    save_file(load_file(path) | tensors, path, {**before, **note})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "is damaged"),
        (lambda p: p.write_bytes(b"spear"), "header"),
        (lambda p: save_file({}, p), "its format is not"),
        (lambda p: rewritten(p, {}, epochs="9"), "its epochs are '9', of a run of 4"),
        (lambda p: rewritten(p, {}, of='{"network": "x"}'), "network was x, is dropping"),
        (lambda p: rewritten(p, {}, of="[]"), "does not say what it is of"),
        (lambda p: rewritten(p, {"model.more": torch.zeros(1)}), "model.more"),
        (lambda p: rewritten(p, {"optimizer.0.step": torch.zeros(3)}), "optimizer.0.step"),
        (lambda p: rewritten(p, {"optimizer.99.step": torch.zeros(())}), "optimizer.99.step"),
        (lambda p: rewritten(p, {"random.order": torch.zeros(7).byte()}), "random.order"),
        (lambda p: rewritten(p, {"random.cpu": torch.zeros(5056).byte()}), "cannot be gone on"),
    ],
    ids=[
        "cut",
        "short",
        "foreign",
        "epochs",
        "network",
        "note",
        "more",
        "form",
        "index",
        "rng",
        "rng-state",
    ],
)
def test_damaged(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    path = tmp_path / "kept.safetensors"
    run(path, replace(ADAM))
    damage(path)
    with pytest.raises(CheckpointError, match=said):
        run(path, ADAM)


def test_fine_tunes_of_plans_have_their_own(tiny: Workload, tmp_path: Path) -> None:
    evaluator = PlanEvaluator(toys.rebuilt(tiny, finetune=Recipe(epochs=2, lr=2e-3)))
    for counts in ((4, 6, 6), (5, 6, 6)):
        expected = evaluator.finetune(counts, seed=1).model.state_dict()
        seen: list[int] = []

        def stop(done: int, total: int, _: float, seen: list[int] = seen) -> None:
            seen.append(done)
            if done == total // 2 + 1 and seen[0] == 1:
                raise Stopped

        with pytest.raises(Stopped):
            evaluator.finetune(counts, seed=1, on_batch=stop, checkpoints=tmp_path)
        seen.clear()
        found = evaluator.finetune(counts, seed=1, on_batch=stop, checkpoints=tmp_path)
        assert_same(found.model.state_dict(), expected)
        assert seen[0] > 1
    (tmp_path / "finetune-notes.txt").touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["finetune-notes.txt"]
