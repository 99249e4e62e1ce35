"""Batches of images from streams of samples: the same definition for training and evaluation."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ..errors import InputError
from ..extras import require
from .augmentation import Augmentation
from .header import read_image
from .parameters import stream_fields, view_arguments
from .pixelwise import finish
from .samples import Sample
from .upright import upright

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Arguments of `ImagePipeline` for images in 0..255, not normalised.
GREY_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


@dataclass(frozen=True)
class Stream:
    """What is drawn together from one list of samples.

    samples: the list that the indices point into.
    indices: step -> (B,) positions in `samples`; every stream of a pipeline gives equally many.
    views: each decoded image is shown once per entry, augmented by it; None is the whole image, resized.
    share_geometry: all views get view 0's window, deformation and flip.
    rows: the part of every batch that this process takes, where several divide it among themselves. The random
        parameters belong to positions of the whole batch, so the parts together are what one process would see.
    images: the samples' images, decoded already, uint8 (N, H, W, 3), as `cached_images` gives them; None reads the
        files anew for every batch.

    Raises:
        InputError: the geometry is to be shared by views of different generic ranges, or a view that is the whole
            image as it is has samples that are mirrored.
        ValueError: `images` are not those of the samples.
    """

    samples: Sequence[Sample]
    indices: Callable[[int], np.ndarray]
    views: tuple[Augmentation | None, ...]
    share_geometry: bool = False
    rows: slice = field(default_factory=lambda: slice(None))
    images: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.share_geometry and len({view and view.generic for view in self.views}) > 1:
            raise InputError("share_geometry: the views have different generic ranges; make them equal")
        if None in self.views and any(sample.mirrored for sample in self.samples):
            raise InputError("mirrored samples are for training: give every view an Augmentation")
        if self.images is not None and (self.images.ndim, len(self.images)) != (4, len(self.samples)):
            raise ValueError(f"images of shape {self.images.shape} for {len(self.samples)} samples")

    @property
    def decoded_size(self) -> tuple[int, int] | None:
        """Height and width of `images`."""
        return None if self.images is None else self.images.shape[1:3]


@dataclass(frozen=True)
class Batch:
    """images[stream][view] is float32 (B, 3, H, W), normalised; indices[stream] is (B,); both of `Stream.rows`."""

    images: tuple[tuple[torch.Tensor, ...], ...]
    indices: tuple[np.ndarray, ...]


class ImagePipeline:
    """Iterating gives the batches of steps `start_step` .. `start_step + steps - 1`, anew each time.

    A batch is a function of (streams, size, seed, step) alone, whatever the number of threads and wherever the
    iteration started, so a run resumes exactly by starting at its step. Reading and decoding run ahead of the
    caller by two batches. As a context manager it stops its threads at the end of the block; otherwise they stop
    with the iterator.

    Args:
        size: height and width of the images in pixels.
        device: "cpu", or "cuda" to decode, augment and leave the images on the GPU.
        threads: that decode and augment.
        mean, std: of the red, green and blue channel, for pixels in 0..1.

    Raises:
        InputError: while iterating, at the batch in question: an image is missing, empty, truncated, too large or
            cannot be decoded; the message names the file.
        MissingExtra: DALI is not installed.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        size: tuple[int, int],
        steps: int,
        seed: int = 0,
        start_step: int = 0,
        device: str = "cpu",
        threads: int = 2,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        self._streams = tuple(streams)
        self._size, self._seed, self._gpu = tuple(size), seed, device != "cpu"
        self._first, self._end = start_step, start_step + steps
        self._threads, self._mean, self._std = threads, mean, std
        self._running: Iterator[Batch] | None = None

    def __len__(self) -> int:
        return self._end - self._first

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        self._running = self._batches(_graph())
        return self._running

    def __enter__(self) -> ImagePipeline:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Stop the iteration that is under way and its threads."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _batches(self, graph: ModuleType) -> Iterator[Batch]:
        if len(self) == 0:
            return
        feed = _Feed(self._streams, self._size, self._seed, self._first, self._end)
        pipeline = graph.build_pipeline(
            feed,
            [(stream.views, stream.share_geometry, stream.decoded_size) for stream in self._streams],
            self._size,
            batch_size=feed.batch_size,
            gpu=torch.cuda.current_device() if self._gpu else None,
            threads=self._threads,
        )
        # Work on it comes before a step of training, which would otherwise be waited for.
        stream = torch.cuda.Stream(priority=-1) if self._gpu else None
        for step in range(self._first, self._end):
            outputs, failure = _run(pipeline)
            if outputs is None:
                break
            images = self._finished(step, outputs, feed.arguments, stream)
            yield Batch(images=images, indices=feed.indices.pop(step))
        else:
            return
        del pipeline, outputs  # whoever keeps the error keeps this frame, and would keep DALI's threads with it
        raise feed.error if failure is None else self._explained(failure, feed.indices[step])

    def _finished(
        self, step: int, outputs: Sequence, arguments: dict, cuda_stream: torch.cuda.Stream | None
    ) -> tuple[tuple[torch.Tensor, ...], ...]:
        """DALI's outputs, one per view in order, with what is left to do to them; on a GPU, done on that stream."""
        with contextlib.nullcontext() if cuda_stream is None else torch.cuda.stream(cuda_stream):
            pixels = iter(_to_torch(outputs, cuda_stream))
            images = tuple(
                tuple(
                    finish(next(pixels), arguments.pop((step, i, j)), self._mean, self._std)
                    for j in range(len(stream.views))
                )
                for i, stream in enumerate(self._streams)
            )
        if cuda_stream is not None:
            _hand_over(itertools.chain.from_iterable(images), cuda_stream)
        return images

    def _explained(self, failure: RuntimeError, indices: tuple[np.ndarray, ...]) -> Exception:
        """DALI does not say which image of a batch it could not decode. If it was not that: DALI's own error."""
        for stream, rows in zip(self._streams, indices, strict=True):
            paths = [stream.samples[i].path for i in rows] if stream.images is None else []
            for path in undecodable(paths, self._threads):
                error = InputError(f"{path}: the image cannot be decoded; replace it or drop it from the list")
                error.__cause__ = failure
                return error
        return failure


class _Feed:
    """What DALI asks for, call by call: the encoded images and operator arguments of one step.

    DALI asks ahead. What goes wrong is therefore kept in `error` and ends the input, so that it reaches the caller
    at its own step, after the good batches before it.
    """

    def __init__(self, streams: tuple[Stream, ...], size: tuple[int, int], seed: int, first: int, end: int):
        self._streams, self._size, self._seed, self._first, self._end = streams, size, seed, first, end
        self.indices: dict[int, tuple[np.ndarray, ...]] = {}
        self.arguments: dict[tuple[int, int, int], dict] = {}  # (step, stream, view) -> `view_arguments`
        self.error: Exception | None = None
        self.batch_size = len(self._draw(first)[0][streams[0].rows])

    def __call__(self, call: int) -> tuple:
        step = self._first + call
        if step >= self._end or self.error is not None:
            raise StopIteration
        try:
            batches = self._draw(step)
            self.indices[step] = tuple(b[stream.rows] for stream, b in zip(self._streams, batches, strict=True))
            return tuple(part for number, batch in enumerate(batches) for part in self._parts(step, number, batch))
        except InputError as error:
            self.error = InputError(*error.args)  # without a traceback, which would hold DALI's frames and threads
        except Exception as error:
            self.error = error
        raise StopIteration

    def _draw(self, step: int) -> list[np.ndarray]:
        """Per stream the indices of the whole batch."""
        batches = [stream.indices(step) for stream in self._streams]
        lengths = [len(batch[stream.rows]) for stream, batch in zip(self._streams, batches, strict=True)]
        if len(set(lengths)) > 1:
            raise ValueError(f"the streams give batches of different length: {lengths}")
        return batches

    def _parts(self, step: int, number: int, batch: np.ndarray) -> Iterator:
        stream, rows = self._streams[number], self.indices[step][number]
        mirrored = np.array([stream.samples[i].mirrored for i in batch])
        if stream.images is None:
            yield [_encoded(stream.samples[i].path) for i in rows]
        else:
            yield [stream.images[i] for i in rows]
        fields = stream_fields(stream.views, stream.share_geometry)
        for position, (view, names) in enumerate(zip(stream.views, fields, strict=True)):
            place = (step, number, position)
            whole = {} if view is None else view_arguments(view, mirrored, self._size, self._seed, place)
            arguments = self.arguments[place] = {name: value[stream.rows] for name, value in whole.items()}
            yield from (arguments[name] for name in names)


def undecodable(paths: Sequence[Path], threads: int = 2, batch_size: int = 16) -> list[Path]:
    """Those of the paths whose image has a sound header and still cannot be decoded."""
    graph, decoder = _graph(), None
    failed = []
    todo = [list(paths[i : i + batch_size]) for i in range(0, len(paths), batch_size)]
    while todo:
        group = todo.pop()
        decoder = decoder or graph.build_decoder(batch_size, threads)
        try:
            decoder.run(encoded=[_encoded(path) for path in group])
        except (RuntimeError, InputError):
            decoder = None
            half = len(group) // 2
            if half:
                todo += [group[half:], group[:half]]
            else:
                failed += group
    return failed


def _encoded(path: Path) -> np.ndarray:
    data, header = read_image(path)
    try:
        return np.frombuffer(upright(data, header), np.uint8)
    except ValueError as error:
        raise InputError(f"{path}: {error}; replace it or drop it from the list") from error


def _graph() -> ModuleType:
    require("nvidia.dali", extra="train")
    from . import graph

    return graph


def _run(pipeline) -> tuple[tuple | None, RuntimeError | None]:
    """DALI's next outputs; or None and its error, which is None at the end of the input."""
    try:
        return pipeline.run(), None
    except StopIteration:
        return None, None
    except RuntimeError as error:
        return None, error.with_traceback(None)


def _to_torch(outputs: Sequence, cuda_stream: torch.cuda.Stream | None) -> list[torch.Tensor]:
    """The batches as tensors. On the CPU they are DALI's memory, which the tensors keep alive."""
    tensors = [torch.from_dlpack(output.as_tensor()) for output in outputs]
    if cuda_stream is None:
        return tensors
    copies = [tensor.clone() for tensor in tensors]
    # DALI frees in the order of its own stream, which does not wait for torch's.
    cuda_stream.record_event().synchronize()
    return copies


def _hand_over(images: Iterable[torch.Tensor], made_on: torch.cuda.Stream) -> None:
    """Let the current stream work on what another one makes, and memory be used again when both are done with it."""
    current = torch.cuda.current_stream()
    current.wait_stream(made_on)
    for image in images:
        image.record_stream(current)
