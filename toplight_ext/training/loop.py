"""The training loop: one stage, from wherever it stands to its last step."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Batch, ImagePipeline, Stream
from ..errors import InputError
from ..progress import progress_bar
from .checkpoint import load_checkpoint, save_checkpoint
from .recipe import Optimiser
from .run import Run


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what to do."""


class Interrupted(TrainingError):
    """SIGINT or SIGTERM: a checkpoint was written."""


@dataclass
class Stage:
    """What one stage trains, and on what.

    `losses(batch)` returns the weighted terms by name; their sum is minimised. Batch k of the streams is a
    function of the seed and k alone, so a stage resumes exactly by starting its pipeline at step k.
    """

    name: str
    model: nn.Module  # the network that the stage leaves behind
    trained: nn.Module  # the network and whatever is only needed to train it
    streams: tuple[Stream, ...]
    losses: Callable[[Batch], dict[str, Tensor]]
    steps_per_epoch: int
    epochs: int
    optimiser: Optimiser

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs


def train_stage(run: Run, stage: Stage, device: torch.device) -> tuple[float, int]:
    """Train `stage` to its end, from its checkpoint if the run has one.

    Returns:
        Seconds spent, over all resumes, and images seen.

    Raises:
        TrainingError: the loss is not finite; the weights are those before the step.
        Interrupted: a signal asked to stop; the checkpoint is written.
    """
    stage.trained.to(device, memory_format=torch.channels_last)
    optimiser = build_optimiser(stage.trained, stage.optimiser)
    state = _restore(run, stage, optimiser)
    step, images, began = state["step"], state["images"], time.monotonic() - state["seconds"]

    def checkpoint() -> None:
        save_checkpoint(
            run.checkpoint,
            {
                "stage": stage.name,
                "step": step,
                "images": images,
                "seconds": time.monotonic() - began,
                "metrics_size": run.metrics_size,
                "trained": stage.trained.state_dict(),
                "optimiser": optimiser.state_dict(),
                "random": torch.get_rng_state(),
            },
        )

    stage.trained.train()
    recipe = run.recipe
    batches = ImagePipeline(
        stage.streams,
        size=recipe.size,
        seed=recipe.seed,
        start_step=step,
        steps=stage.steps - step,
        device=device.type,
        threads=recipe.threads,
    )
    with batches, _stop_on_signal() as stopped, progress_bar(stage.name, stage.steps, done=step) as advance:
        for batch in batches:
            rate = learning_rate(stage.optimiser, step, stage.steps_per_epoch, stage.steps)
            values = _update(stage, optimiser, batch, rate, device, recipe.precision, step)
            images += sum(view.shape[0] for stream in batch.images for view in stream)
            run.log(stage.name, step, {"epoch": step // stage.steps_per_epoch, "learning_rate": rate, **values})
            step += 1
            advance(note=f"loss {values['loss']:.3f}  {images / (time.monotonic() - began):.0f} images/s")
            if stopped():
                checkpoint()
                raise Interrupted(f"stopped in stage {stage.name} after step {step}: toplight resume {run.folder}")
            if step % stage.steps_per_epoch == 0 and step < stage.steps:
                checkpoint()
    return time.monotonic() - began, images


def _update(stage, optimiser, batch, rate: float, device: torch.device, precision: str, step: int) -> dict[str, float]:
    """One optimiser step; the loss terms as numbers."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    half = precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        terms = stage.losses(batch)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
    if not torch.isfinite(loss):
        names = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
        pairs = zip(stage.streams, batch.indices, strict=True)
        paths = [str(stream.samples[i].path) for stream, rows in pairs for i in rows[:3]]
        raise TrainingError(
            f"stage {stage.name}, step {step}: the loss is not finite ({names}); the step was not taken and the "
            f"last checkpoint is kept. Lower optimiser.learning_rate or set optimiser.clip_norm. "
            f"First images of the batch: {', '.join(paths)}"
        )
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if stage.optimiser.clip_norm is not None:
        nn.utils.clip_grad_norm_(stage.trained.parameters(), stage.optimiser.clip_norm)
    optimiser.step()
    return {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}


def build_optimiser(module: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum; vectors (biases, norm parameters) are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.squeeze().ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.squeeze().ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=True, fused=True)


def learning_rate(settings: Optimiser, step: int, steps_per_epoch: int, steps: int) -> float:
    """Linear warm-up over `warmup_epochs`, then half a cosine down to zero; a function of the step alone."""
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    return settings.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2


def _restore(run: Run, stage: Stage, optimiser: torch.optim.Optimizer) -> dict:
    """Where the stage stands: its checkpoint, or its beginning."""
    finished = run.finished
    start = {"step": 0, "images": 0, "seconds": 0.0, "metrics_size": finished[-1]["metrics_size"] if finished else 0}
    if run.checkpoint.exists():
        state = load_checkpoint(run.checkpoint)
        if state["stage"] == stage.name:
            try:
                stage.trained.load_state_dict(state["trained"])
                optimiser.load_state_dict(state["optimiser"])
            except (RuntimeError, ValueError, KeyError) as error:
                raise InputError(f"{run.checkpoint} does not fit the recipe of {run.folder}: {error}") from error
            torch.set_rng_state(state["random"])
            start = state
    run.rewind_metrics(start["metrics_size"])
    return start


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask the loop to stop after the step it is in; a second one ends the process at once."""
    received: list[int] = []
    previous = {}

    def handler(number, frame) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: the caller handles signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
