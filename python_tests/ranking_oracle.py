"""The scores of a query as the protocols word them: sort the whole gallery, drop what is filtered, look.

Written to be read, not to be fast; it shares no code with the library.
"""

import numpy as np


def ranked_gallery(distance, query, gallery_identity, gallery_camera, same_camera=False, pairs=()):
    """Gallery positions that a query sees, nearest first; equal distances keep the order of the gallery.

    Args:
        distance: (G,) from the query to every gallery image.
        query: its identity and camera.
        same_camera: images of the query's identity from its camera are not seen.
        pairs: (query camera, gallery camera) whose images are not seen.
    """
    identity, camera = query
    order = np.argsort(distance, kind="stable")
    seen = np.ones(len(order), dtype=bool)
    for place, image in enumerate(order):
        if same_camera and gallery_identity[image] == identity and gallery_camera[image] == camera:
            seen[place] = False
        if (camera, gallery_camera[image]) in pairs:
            seen[place] = False
    return order[seen]


def score(identities, identity, distinct):
    """Average precision, INP and first rank of a query with `identity`, given the ranked `identities`.

    All three are 0 without a match. `distinct`: every identity before the match counts once.
    """
    ranks = np.flatnonzero(np.asarray(identities) == identity) + 1
    if len(ranks) == 0:
        return 0.0, 0.0, 0
    matches = np.arange(1, len(ranks) + 1)
    before = identities[: ranks[0] - 1]
    first = 1 + (len(set(before.tolist())) if distinct else len(before))
    return np.mean(matches / ranks), len(ranks) / ranks[-1], first


def scores(distances, query_labels, gallery_labels, same_camera=False, pairs=(), distinct=False):
    """Columns AP, INP and first rank, (3, Q), for distances (Q, G)."""
    rows = []
    for distance, identity, camera in zip(distances, *query_labels, strict=True):
        seen = ranked_gallery(distance, (identity, camera), *gallery_labels, same_camera, pairs)
        rows.append(score(gallery_labels.identity[seen], identity, distinct))
    return np.array(rows, dtype=float).reshape(-1, 3).T
