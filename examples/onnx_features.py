"""Features of image files by an exported network, without torch and without toplight_ext.

    python onnx_features.py exported/visible.onnx features.npz IMAGE [IMAGE ...]

Needs onnxruntime, numpy and Pillow. Everything that it needs to know is in the ONNX file's metadata. For the network
with both stems, name the stem before the images: `--stem infrared`.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def pixels(path: str, stem: str, contract: dict) -> np.ndarray:
    """The network's input for one image, (3, H, W) float32, as the contract says."""
    rules = contract["preprocessing"]
    height, width = rules["size"]
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    # Pillow's bilinear filter widens where it shrinks: the triangle filter of the contract.
    image = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    if rules["gray"] and stem == "visible":
        image = np.repeat((image @ np.float32(rules["gray_weights"]))[..., None], 3, axis=2)
    image = (image - np.float32(rules["mean"])) / np.float32(rules["std"])
    return image.transpose(2, 0, 1)


def features(file: str, paths: list[str], stem: str | None = None) -> np.ndarray:
    """(N, D) embeddings, not normalised: divide by their lengths for cosines."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    contract = json.loads(session.get_modelmeta().custom_metadata_map["toplight_ext"])
    if contract["stem"] != "both":
        stem = contract["stem"]
    elif stem is None:
        raise SystemExit("this network has both stems: say --stem visible or --stem infrared")
    name = stem if contract["stem"] == "both" else "images"
    height, width = contract["preprocessing"]["size"]
    batch = contract["batch"] or 1
    empty = np.zeros((contract["batch"] or 0, 3, height, width), np.float32)
    rows = []
    for path in paths:  # a fixed batch is filled with the same image
        inputs = {each: empty for each in contract["inputs"]}
        inputs[name] = np.repeat(pixels(path, stem, contract)[None], batch, axis=0)
        first = list(inputs).index(name) * (contract["batch"] or 0)
        rows.append(session.run(["embedding"], inputs)[0][first])
    return np.stack(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("out", help=".npz with the arrays features and paths")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--stem", choices=("visible", "infrared"))
    given = parser.parse_args()
    np.savez(given.out, features=features(given.network, given.images, given.stem), paths=np.array(given.images))
