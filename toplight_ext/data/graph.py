"""The one DALI graph: decode, crop and resize, deform, colour, texture, normalise, on CPU or GPU.

Imported at first use, because it needs DALI. Order chosen for cost: everything after the resize works on images of
the network's size; deform, compress and grey run only on the samples that drew them (DALI conditionals), whereas a
filter of one tap costs less than splitting the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nvidia.dali import Pipeline, fn, pipeline_def, types

from .augmentation import Augmentation
from .parameters import stream_fields


def build_pipeline(
    feed: Callable[[int], tuple],
    streams: Sequence[tuple[tuple[Augmentation | None, ...], bool]],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    gpu: int | None,
    threads: int,
) -> Pipeline:
    """A built pipeline with one output per view: float32 (B, 3, H, W).

    Args:
        feed: call number -> per stream the encoded images, then per view the arguments named by `stream_fields`.
        streams: (views, whether they share view 0's geometry) of each stream.
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
        fields = [stream_fields(views, shared) for views, shared in streams]
        count = sum(1 + sum(map(len, views)) for views in fields)
        inputs = list(fn.external_source(source=feed, num_outputs=count, batch=True))
        outputs = []
        for stream in range(len(streams)):
            image = _decode(inputs.pop(0), gpu)
            for view in range(len(fields[stream])):
                arguments = {name: inputs.pop(0) for name in fields[stream][view]}
                if view == 0 or not streams[stream][1]:
                    geometry = _geometry(image, arguments, size)
                outputs.append(_normalise(_appearance(geometry, arguments, gpu), mean, std))
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
    """Grey images become RGB; the EXIF orientation is applied (DALI's default)."""
    return fn.decoders.image(encoded, device="cpu" if gpu is None else "mixed", output_type=types.RGB)


def _geometry(image, arguments, size):
    if "start" not in arguments:
        return fn.resize(image, size=size)
    # Bilinear; a triangle filter where it shrinks. Outside the image the edge pixel is repeated.
    image = fn.resize(image, size=size, roi_start=arguments["start"], roi_end=arguments["end"], roi_relative=True)
    if "deform" in arguments:
        image = _deform(image, arguments["deform"], arguments["homography"])
    return image


def _appearance(image, arguments, gpu: int | None):
    if "matrix" in arguments:
        image = fn.coord_transform(image, MT=arguments["matrix"], dtype=types.UINT8)
    if "kernel" in arguments:
        image = _compress(image, arguments["compress"], arguments["quality"])
        kernel = arguments["kernel"] if gpu is None else arguments["kernel"].gpu()
        image = fn.filter(image, kernel, border="reflect_101")
        image = _gray(image, arguments["gray"])
    return image


def _deform(image, chosen, homography):
    if chosen:
        image = fn.experimental.warp_perspective(image, matrix=homography, border_mode="replicate")
    return image


def _compress(image, chosen, quality):
    if chosen:
        image = fn.jpeg_compression_distortion(image, quality=quality)
    return image


def _gray(image, chosen):
    if chosen:
        # The luma of ITU-R BT.601 in all three channels; a tenth of the cost of a colour matrix.
        image = fn.color_space_conversion(image, image_type=types.RGB, output_type=types.GRAY)
        image = fn.color_space_conversion(image, image_type=types.GRAY, output_type=types.RGB)
    return image


def _normalise(image, mean, std):
    return fn.crop_mirror_normalize(
        image,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in mean],
        std=[255 * value for value in std],
    )
