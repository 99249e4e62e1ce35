"""The training loop: one stage, from wherever it stands to its last step."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data import Batch, ImagePipeline, Stream
from ..errors import InputError
from ..models import DualPathNetwork
from ..progress import progress_bar
from ..text import plain
from ..transfers import HostCopy, to_device
from .optimisers import Average, build_optimiser, learning_rate, set_learning_rate
from .processes import synchronise_norms, world_size
from .recipe import Optimiser
from .run import Run
from .stopping import Interrupted, Stop, TrainingError
from .update import GraphedUpdate, Update, agreed

# What is recorded of a network on the way, and under which names.
Look = Callable[[DualPathNetwork], dict[str, float]]


@dataclass
class Stage:
    """What one stage trains, and on what.

    Batch k of the streams is a function of the seed and k alone, so a stage resumes exactly by starting its pipeline
    at step k. In a process of several the images of a batch are its part, the labels those of the whole batch.
    """

    name: str
    model: DualPathNetwork  # the network that the stage leaves behind
    objective: nn.Module  # holds all that is trained; (images, labels) -> weighted loss terms by name
    streams: tuple[Stream, ...]
    labels: np.ndarray  # (N,) class of each sample of the streams
    steps_per_epoch: int
    epochs: int
    optimiser: Optimiser

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs


class Taken(NamedTuple):
    """A step that was taken and whose figures the device may still be computing."""

    step: int
    rate: float
    indices: tuple[np.ndarray, ...]
    record: HostCopy  # of `Update`, then whether to stop


class Training:
    """One stage under way: its state, and how that goes to the disk and comes back.

    Args:
        look: what to record of the network every `evaluation.every_epochs`; None records nothing.

    Raises:
        InputError: there is a checkpoint, and it cannot be used.
    """

    def __init__(self, run: Run, stage: Stage, device: torch.device, look: Look | None = None):
        self.stage = stage
        self._run, self._device, self._look = run, device, look
        recipe, settings, objective = run.recipe, stage.optimiser, stage.objective
        objective.to(device, memory_format=torch.channels_last)
        if world_size() > 1 and recipe.sync_batchnorm:
            synchronise_norms(objective, device)
        self._optimiser = build_optimiser(objective, stage.model, settings, recipe.cuda_graph)
        self._average = None if settings.ema_decay is None else Average(stage.model, settings.ema_decay)
        if recipe.compile:
            objective.compile()
        if world_size() > 1:
            # static_graph: which parameters the losses of a recipe leave without gradient never changes.
            objective = DistributedDataParallel(objective, static_graph=True)
        self._update = Update(
            objective, self._optimiser, recipe.precision, device, settings.clip_norm, recipe.cuda_graph
        )
        self._new_weights = GraphedUpdate(self._update) if recipe.cuda_graph else self._update
        self._taken: deque[Taken] = deque()
        self._asked_to_stop: int | None = None  # the first step whose record says so
        self._step, self._images, self._seconds = 0, 0, 0.0
        self._restore()
        self._began = time.monotonic() - self._seconds

    def to_the_end(self, stop: Stop) -> tuple[float, int]:
        """Take the remaining steps; then the stage's network holds what the stage leaves behind.

        Signals are to be `deferred` meanwhile.

        Returns:
            Seconds spent, over all resumes, and images seen.

        Raises:
            TrainingError: a loss or gradient is not finite; the weights are those before the step.
            Interrupted: a signal asked to stop; the checkpoint is written.
        """
        stage, recipe = self.stage, self._run.recipe
        every, limit = recipe.checkpoint.steps or stage.steps_per_epoch, 60 * recipe.checkpoint.minutes
        written = time.monotonic()
        stage.objective.train()
        with self.batches() as batches, progress_bar(stage.name, stage.steps, self._step) as advance:
            for batch in batches:
                self.take(batch, stop.requested)
                # The newest step's figures are left to the device, so that the host is ahead of it.
                note = self.log(leave=1)
                ended, look = self._step == stage.steps, self._look_due()
                # Not sooner, even where the figures were read sooner: all processes stop after the same step.
                stopping = self._asked_to_stop is not None and self._step > self._asked_to_stop + 1
                save = stopping or self._step % every == 0 or time.monotonic() - written > limit
                if ended or look or save:
                    self.log(leave=0)
                if look:
                    self._record_look()
                if save and not ended:
                    self._save()
                    written = time.monotonic()
                    if stopping:
                        raise Interrupted(stop.message)
                advance(note=note)
        if self._average is not None:
            self._average.exchange()
        return time.monotonic() - self._began, self._images

    def batches(self) -> ImagePipeline:
        """Those of the remaining steps."""
        recipe = self._run.recipe
        return ImagePipeline(
            self.stage.streams,
            size=recipe.size,
            seed=recipe.seed,
            start_step=self._step,
            steps=self.stage.steps - self._step,
            device=self._device.type,
            threads=recipe.threads,
            mean=recipe.mean,
            std=recipe.std,
        )

    def take(self, batch: Batch, stop: bool = False) -> None:
        """One step on this process's part of a batch; `stop` asks all processes to stop."""
        stage = self.stage
        # Depthwise convolutions run 1.6 times as fast on channels_last, on a CPU.
        images = [
            view.to(self._device, memory_format=torch.channels_last, non_blocking=True)
            for stream in batch.images
            for view in stream
        ]
        rows = (torch.from_numpy(stage.labels[stream.indices(self._step)]) for stream in stage.streams)
        labels = [to_device(of_stream, self._device) for of_stream in rows]
        rate = learning_rate(stage.optimiser, self._step, stage.steps_per_epoch, stage.steps)
        set_learning_rate(self._optimiser, rate)
        record = agreed(self._new_weights(images, labels), stop)
        if self._average is not None:
            self._average.update(self._step)
        self._taken.append(Taken(self._step, rate, batch.indices, HostCopy(record)))
        self._step += 1
        self._images += sum(len(rows) * len(s.views) for rows, s in zip(labels, stage.streams, strict=True))

    def log(self, leave: int) -> str:
        """Read and write the figures of all but the newest `leave` steps; a note on the last of them."""
        note = ""
        while len(self._taken) > leave:
            step, rate, indices, record = self._taken.popleft()
            failed, loss, *terms, stop = record.tolist()
            values = dict(zip(self._update.names, terms, strict=True))
            if failed:
                raise TrainingError(self._failure(step, indices, loss, values))
            epoch = step // self.stage.steps_per_epoch
            self._run.log(self.stage.name, step, {"epoch": epoch, "learning_rate": rate, "loss": loss, **values})
            if stop and self._asked_to_stop is None:
                self._asked_to_stop = step
            note = f"loss {loss:.3f}  {self._images / (time.monotonic() - self._began):.0f} images/s"
        return note

    def _failure(self, step: int, indices: tuple[np.ndarray, ...], loss: float, values: dict[str, float]) -> str:
        what = "gradient" if math.isfinite(loss) else "loss"
        names = ", ".join(f"{name} {value:g}" for name, value in values.items())
        pairs = zip(self.stage.streams, indices, strict=True)
        paths = [str(stream.samples[i].path) for stream, rows in pairs for i in rows[:3]]
        return (
            f"stage {self.stage.name}, step {step}: the {what} is not finite ({names}); the step was not taken. A "
            f"resumed run would come here again: start another one with a lower {self.stage.name}.optimiser."
            f"learning_rate, or with a {self.stage.name}.optimiser.clip_norm. "
            f"First images of the batch: {', '.join(paths)}"
        )

    def _look_due(self) -> bool:
        epochs, rest = divmod(self._step, self.stage.steps_per_epoch)
        return self._look is not None and rest == 0 and epochs % self._run.recipe.evaluation.every_epochs == 0

    def _record_look(self) -> None:
        shown = contextlib.nullcontext() if self._average is None else self._average.shown()
        with shown:
            figures = self._look(self.stage.model)
        self.stage.objective.train()
        epoch = self._step // self.stage.steps_per_epoch
        self._run.log_dev(self.stage.name, self._step, {"epoch": epoch, **figures})

    def _save(self) -> None:
        if not self._run.writes:
            return
        cuda = self._device.type == "cuda"
        self._run.checkpoints.save(
            {
                "stage": self.stage.name,
                "step": self._step,
                "images": self._images,
                "seconds": time.monotonic() - self._began,
                "logs": self._run.flushed_sizes(),
                "trained": self.stage.objective.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "scaler": self._update.scaler.state_dict(),
                "average": [] if self._average is None else self._average.values,
                "random": torch.get_rng_state(),
                "cuda_random": torch.cuda.get_rng_state() if cuda else None,
            }
        )

    def _restore(self) -> None:
        """Go back to the last checkpoint, if it is of this stage, and the logs with it."""
        run, state = self._run, self._run.checkpoints.load()
        try:
            if state is None or state["stage"] != self.stage.name:
                run.rewind(run.finished[-1].get("logs") if run.finished else {})
                return
            self._step, self._images, self._seconds = self._progress(state)
            self.stage.objective.load_state_dict(state["trained"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._update.scaler.load_state_dict(state["scaler"])
            if self._average is not None:
                self._average.load(state["average"])
            torch.set_rng_state(state["random"])
            if state["cuda_random"] is not None and self._device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_random"])
            run.rewind(state["logs"])
        except InputError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = plain(error, 300)
            raise InputError(f"the checkpoint of {run.folder} does not fit its recipe: {reason}") from error

    def _progress(self, state: dict[str, Any]) -> tuple[int, int, float]:
        """Steps, images and seconds of a checkpoint; raises ValueError for what no run of this stage can have."""
        steps, images, seconds = (state[name] for name in ("step", "images", "seconds"))
        if not (type(steps) is type(images) is int and 0 <= steps <= self.stage.steps and images >= 0):
            raise ValueError(f"step {steps!r} of {self.stage.steps}, {images!r} images")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{seconds!r} seconds")
        return steps, images, seconds
