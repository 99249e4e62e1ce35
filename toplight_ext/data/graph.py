"""The one DALI graph: decode, crop and resize, deform, compress, blur and sharpen, on CPU or GPU.

Imported at first use, because it needs DALI. Order and fusion chosen for cost: window, flip, deformation and resize
are one warp where that needs no filter against aliasing; everything after works on images of the network's size;
compression runs only on the samples that drew it (DALI conditionals), whereas a filter of one tap costs less than
splitting the batch. What looks at single pixels follows in `pixelwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from nvidia.dali import Pipeline, fn, math, pipeline_def, types

from .augmentation import Augmentation
from .parameters import stream_fields

# Our choice: a window that shrinks by more is resized with a triangle filter, which costs thrice a bilinear warp.
SHRINKING = 1.25


def build_pipeline(
    feed: Callable[[int], tuple],
    streams: Sequence[tuple[tuple[Augmentation | None, ...], bool, tuple[int, int] | None]],
    size: tuple[int, int],
    batch_size: int,
    gpu: int | None,
    threads: int,
) -> Pipeline:
    """A built pipeline with one output per view: uint8 (B, H, W, 3).

    Args:
        feed: call number -> per stream the images, then per view the arguments named by `stream_fields`.
        streams: of each stream the views, whether they share view 0's geometry, and the size of its images if they
            are decoded already.
        gpu: number of the GPU to work on; None is the CPU.
    """

    @pipeline_def(
        batch_size=batch_size,
        num_threads=threads,
        device_id=gpu,
        enable_conditionals=True,
        exec_dynamic=True,  # an output lives as long as somebody refers to it
    )
    def graph():
        fields = [stream_fields(views, shared) for views, shared, _ in streams]
        count = sum(1 + sum(map(len, views)) for views in fields)
        inputs = list(fn.external_source(source=feed, num_outputs=count, batch=True))
        outputs = []
        for stream in range(len(streams)):
            decoded = streams[stream][2]
            image = (_decoded if decoded else _decode)(inputs.pop(0), gpu)
            for view in range(len(fields[stream])):
                arguments = {name: inputs.pop(0) for name in fields[stream][view]}
                if view == 0 or not streams[stream][1]:
                    geometry = _geometry(image, arguments, size, decoded)
                outputs.append(_texture(geometry, arguments, gpu))
        return tuple(outputs)

    pipeline = graph()
    pipeline.build()
    return pipeline


def build_decoder(batch_size: int, threads: int) -> Pipeline:
    """A built pipeline that decodes on the CPU and gives the shapes: `run(encoded=[...])`."""
    pipeline = Pipeline(batch_size, threads, None, prefetch_queue_depth=1)
    with pipeline:
        image = _decode(fn.external_source(name="encoded", batch=True), None)
        pipeline.set_outputs(image.shape())
    pipeline.build()
    return pipeline


def _decode(encoded, gpu: int | None):
    """Grey images become RGB; EXIF is left alone (`upright`)."""
    device = "cpu" if gpu is None else "mixed"
    return fn.decoders.image(encoded, device=device, output_type=types.RGB, adjust_orientation=False)


def _decoded(pixels, gpu: int | None):
    image = fn.reshape(pixels, layout="HWC")
    return image if gpu is None else image.gpu()


def _geometry(image, arguments, size, decoded):
    if "start" not in arguments:
        # A resize to the same size changes nothing, and costs three times the normalisation.
        return image if decoded == size else fn.resize(image, size=size)
    shape = image.shape(dtype=types.FLOAT)
    window = math.abs(arguments["end"] - arguments["start"]) * shape[:2]
    shrinks = fn.reductions.max(window / np.float32(size)) > SHRINKING
    pixels = fn.reshape(fn.stack(shape[1], shape[0], np.float32(1)), shape=[3, 1])
    return _placed(image, shrinks, arguments, pixels * arguments["placement"], size)


def _placed(image, shrinks, arguments, placement, size):
    """Bilinear; outside the image the edge pixel is repeated."""
    if shrinks:
        image = fn.resize(image, size=size, roi_start=arguments["start"], roi_end=arguments["end"], roi_relative=True)
        if "deform" in arguments:
            image = _deform(image, arguments["deform"], arguments["homography"], size)
    else:
        image = _warp(image, placement, size)
    return image


def _warp(image, homography, size):
    return fn.experimental.warp_perspective(image, size=size, matrix=homography, border_mode="replicate")


def _texture(image, arguments, gpu: int | None):
    if "kernel" in arguments:
        image = _compress(image, arguments["compress"], arguments["quality"])
        kernel = arguments["kernel"] if gpu is None else arguments["kernel"].gpu()
        image = fn.filter(image, kernel, border="reflect_101")
    return image


def _deform(image, chosen, homography, size):
    if chosen:
        image = _warp(image, homography, size)
    return image


def _compress(image, chosen, quality):
    if chosen:
        image = fn.jpeg_compression_distortion(image, quality=quality)
    return image
