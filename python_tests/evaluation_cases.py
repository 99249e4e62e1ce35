"""Small sets of features in the shape of the data sets, drawn, for comparison with other people's evaluators."""

import numpy as np

from toplight_ext.evaluation import Features

SYSU_INFRARED = (3, 6)
LLCM_INFRARED = (1, 2, 4, 5, 6, 7, 8, 9)


def sysu_like(seed=0, ties=False):
    """40 identities before six cameras, ten to fourteen images each; some do not pass some cameras."""
    rng = np.random.default_rng(seed)
    cells = [
        ("infrared" if camera in SYSU_INFRARED else "visible", camera, identity, rng.integers(10, 15))
        for identity in range(1, 41)
        for camera in range(1, 7)
        if rng.random() < 0.8
    ]
    return _features(rng, cells, ties)


def llcm_like(seed=0, ties=False):
    """30 identities before nine visible cameras and eight infrared ones, one to six images each."""
    rng = np.random.default_rng(seed)
    cells = [
        (modality, camera, identity, rng.integers(1, 7))
        for identity in range(1, 31)
        for modality, cameras in (("visible", range(1, 10)), ("infrared", LLCM_INFRARED))
        for camera in cameras
        if rng.random() < 0.5
    ]
    return _features(rng, cells, ties)


def _features(rng, cells, ties):
    """Noisy identity prototypes, infrared shifted. `ties`: whole numbers, so that exact distances often tie."""
    prototypes = rng.standard_normal((64, 8))
    modality, camera, identity, index = zip(
        *((m, c, i, n) for m, c, i, count in cells for n in range(1, count + 1)), strict=True
    )
    noise = rng.standard_normal((len(identity), 8))
    features = prototypes[np.array(identity)] + 1.3 * noise + 0.8 * (np.array(modality) == "infrared")[:, None]
    arrays = dict(identity=identity, camera=camera, modality=modality, index=index)
    return Features(np.round(features) if ties else features, **{k: np.array(v) for k, v in arrays.items()})
