"""Losses against loops over anchors and classes, and their gradients against finite differences."""

import math

import pytest
import torch
from filling import filled
from torch import nn

from toplight_ext.losses import (
    CentreLoss,
    cross_modality_circle,
    cross_modality_infonce,
    cross_modality_triplet,
    feature_domain,
    hetero_centre,
    hetero_centre_triplet,
    identity_consistency,
    symmetric_kl,
    weighted_regularised_triplet,
)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def triplet_by_loops(anchors, others, anchor_ids, other_ids, margin):
    """The hinge of every anchor that has a match and a non-match."""
    hinges = []
    for anchor, identity in zip(anchors, anchor_ids, strict=True):
        pairs = [(math.dist(anchor, other), i == identity) for other, i in zip(others, other_ids, strict=True)]
        matches = [distance for distance, match in pairs if match]
        others_apart = [distance for distance, match in pairs if not match]
        if matches and others_apart:
            hinges.append(max(0.0, margin + max(matches) - min(others_apart)))
    return hinges


def contrast_by_loops(anchors, others, anchor_ids, other_ids, temperature):
    """The mean negative log-probability of the matches of every anchor that has one."""
    values = []
    for anchor, identity in zip(anchors, anchor_ids, strict=True):
        cosines = [
            sum(a * b for a, b in zip(anchor, other, strict=True)) / math.hypot(*anchor) / math.hypot(*other)
            for other in others
        ]
        probabilities = softmax([cosine / temperature for cosine in cosines])
        matching = [p for p, i in zip(probabilities, other_ids, strict=True) if i == identity]
        if matching:
            values.append(-sum(math.log(p) for p in matching) / len(matching))
    return values


def circle_by_loops(anchors, others, anchor_ids, other_ids, margin, scale=64.0):
    """Sun et al. (2020), equation 6 with the weights of equation 5 and the settings of section 3.3, per anchor."""
    values = []
    for anchor, identity in zip(anchors, anchor_ids, strict=True):
        positive = negative = 0.0
        for other, i in zip(others, other_ids, strict=True):
            s = sum(a * b for a, b in zip(anchor, other, strict=True)) / math.hypot(*anchor) / math.hypot(*other)
            if i == identity:
                positive += math.exp(-scale * max(0.0, 1 + margin - s) * (s - (1 - margin)))
            else:
                negative += math.exp(scale * max(0.0, s + margin) * (s - margin))
        if positive and negative:
            values.append(math.log(1 + negative * positive))
    return values


PAIRINGS = {
    "aligned P x K": ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),
    "unequal counts": ([0, 0, 1], [1, 0, 2, 1, 1]),
    "visible identity 3 has no match": ([0, 3, 1], [0, 1, 1]),
    "one identity alone in the infrared": ([0, 1], [0, 0]),
}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(
    ("loss", "by_loops", "setting"),
    [
        (cross_modality_triplet, triplet_by_loops, 0.0),
        (cross_modality_triplet, triplet_by_loops, 2.5),
        (cross_modality_infonce, contrast_by_loops, 0.1),
        (cross_modality_infonce, contrast_by_loops, 0.7),
    ],
)
def test_metric_loss_is_the_mean_over_anchors_of_both_modalities(loss, by_loops, setting, pairing):
    visible_ids, infrared_ids = PAIRINGS[pairing]
    visible, infrared = draw(len(visible_ids), 5, seed=1), draw(len(infrared_ids), 5, seed=2)
    v, i = visible.tolist(), infrared.tolist()
    values = by_loops(v, i, visible_ids, infrared_ids, setting) + by_loops(i, v, infrared_ids, visible_ids, setting)

    def of_features(a, b):
        return loss(a, b, torch.tensor(visible_ids), torch.tensor(infrared_ids), setting)

    assert of_features(visible, infrared).item() == pytest.approx(sum(values) / len(values), rel=1e-12)
    assert torch.autograd.gradcheck(of_features, (visible, infrared))


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("margin", "scale"), [(0.25, 64.0), (0.4, 3.0)])
def test_circle_loss_is_that_of_the_paper(pairing, margin, scale):
    visible_ids, infrared_ids = PAIRINGS[pairing]
    visible, infrared = draw(len(visible_ids), 5, seed=1), draw(len(infrared_ids), 5, seed=2)
    v, i = visible.tolist(), infrared.tolist()
    values = circle_by_loops(v, i, visible_ids, infrared_ids, margin, scale)
    values += circle_by_loops(i, v, infrared_ids, visible_ids, margin, scale)
    loss = cross_modality_circle(
        visible, infrared, torch.tensor(visible_ids), torch.tensor(infrared_ids), margin, scale
    )
    assert loss.item() == pytest.approx(sum(values) / len(values), rel=1e-10)
    # Its weights count as constants, so its gradient is not that of the value: towards matches, away from others.
    gradient = torch.autograd.grad(loss, [visible, infrared])
    with torch.no_grad():
        moved = cross_modality_circle(
            *(x - 1e-4 * g / (g.norm() + 1e-12) for x, g in zip((visible, infrared), gradient, strict=True)),
            *(torch.tensor(ids) for ids in PAIRINGS[pairing]),
            margin,
            scale,
        )
    assert all(torch.isfinite(g).all() for g in gradient) and moved < loss


def test_circle_loss_weighs_its_pairs_without_a_gradient_of_the_weights():
    """One match, one non-match: the derivative by each similarity, worked out by hand from equation 6."""
    margin, scale, s_p, s_n = 0.25, 4.0, 0.3, 0.5
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    angles = torch.tensor([math.acos(s_p), math.acos(s_n)], dtype=torch.float64, requires_grad=True)
    others = torch.stack((angles.cos(), angles.sin()), dim=1)
    # Identity 1 has no match among the anchors, so only the anchor and its match count, the latter without non-match.
    loss = cross_modality_circle(anchor, others, torch.tensor([0]), torch.tensor([0, 1]), margin, scale)
    pull, push = scale * (1 + margin - s_p), scale * (s_n + margin)
    z = pull * (1 - margin - s_p) + push * (s_n - margin)
    sigmoid = 1 / (1 + math.exp(-z))
    expected = [-sigmoid * pull * -math.sin(math.acos(s_p)), sigmoid * push * -math.sin(math.acos(s_n))]
    assert torch.autograd.grad(loss, angles)[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_centre_loss_is_half_the_squared_distance_to_the_own_centre():
    torch.manual_seed(0)
    loss, features = CentreLoss(3, 4).double(), draw(5, 4)
    labels = [2, 0, 2, 1, 0]
    centres = loss.centres.tolist()
    values = [math.dist(row, centres[label]) ** 2 / 2 for row, label in zip(features.tolist(), labels, strict=True)]
    assert loss(features, torch.tensor(labels)).item() == pytest.approx(sum(values) / 5, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.tensor(labels)), features)
    (gradient,) = torch.autograd.grad(loss(features, torch.tensor(labels)), loss.centres)
    # Identity 2 is in the batch twice: the centre is drawn to the features' sum, over the batch.
    expected = (2 * loss.centres[2] - features[0] - features[2]) / 5
    torch.testing.assert_close(gradient[2], expected)


def centres_by_loops(features, ids):
    """Identity -> the mean of its features."""
    rows = {identity: [f for f, i in zip(features, ids, strict=True) if i == identity] for identity in set(ids)}
    return {identity: [sum(x) / len(x) for x in zip(*row, strict=True)] for identity, row in rows.items()}


P_X_K = [0, 0, 1, 1, 2, 2]


def test_hetero_centre_loss_is_the_mean_over_identities():
    visible, infrared, ids = draw(6, 4, seed=1), draw(6, 4, seed=2), torch.tensor(P_X_K)
    v, i = centres_by_loops(visible.tolist(), P_X_K), centres_by_loops(infrared.tolist(), P_X_K)
    expected = sum(math.dist(v[identity], i[identity]) ** 2 for identity in v) / 3
    assert hetero_centre(visible, infrared, ids, ids).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: hetero_centre(a, b, ids, ids), (visible, infrared))
    assert hetero_centre(visible, infrared, ids, ids + 9) == 0


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_hetero_centre_triplet_takes_the_nearest_other_centre_of_either_modality(margin):
    """Liu et al. (2021), equation 6, as a mean over the 2 P centres."""
    visible, infrared, ids = draw(6, 4, seed=1), draw(6, 4, seed=2), torch.tensor(P_X_K)
    v, i = centres_by_loops(visible.tolist(), P_X_K), centres_by_loops(infrared.tolist(), P_X_K)
    total = 0.0
    for identity in v:
        others = [c[o] for c in (v, i) for o in c if o != identity]
        for own, match in ((v[identity], i[identity]), (i[identity], v[identity])):
            total += max(0.0, margin + math.dist(own, match) - min(math.dist(own, other) for other in others))

    def of_features(a, b):
        return hetero_centre_triplet(a, b, ids, ids, margin)

    assert of_features(visible, infrared).item() == pytest.approx(total / 6, rel=1e-12)
    assert torch.autograd.gradcheck(of_features, (visible, infrared))
    assert hetero_centre_triplet(visible, infrared, 0 * ids, 0 * ids, margin) == 0


@pytest.mark.parametrize("loss", [cross_modality_triplet, cross_modality_infonce, cross_modality_circle])
def test_metric_loss_without_any_pair_is_zero_and_has_finite_gradients(loss):
    visible, infrared = draw(2, 4, seed=1), draw(2, 4, seed=2)
    value = loss(visible, infrared, torch.tensor([0, 1]), torch.tensor([2, 3]))
    value.backward()
    assert value == 0
    assert not visible.grad.any() and not infrared.grad.any()


def test_triplet_has_finite_gradients_where_a_match_is_identical():
    visible = draw(2, 4)
    infrared = visible.detach().clone().requires_grad_()
    cross_modality_triplet(visible, infrared, torch.arange(2), torch.arange(2), margin=100.0).backward()
    assert torch.isfinite(visible.grad).all() and visible.grad.any()


def test_infonce_under_autocast_keeps_full_precision():
    visible, infrared, ids = (
        draw(8, 64, seed=1).float(),
        draw(8, 64, seed=2).float(),
        torch.arange(4).repeat(2),
    )
    outside = cross_modality_infonce(visible, infrared, ids, ids, 0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cross_modality_infonce(visible, infrared, ids, ids, 0.02)
    assert inside == outside


# By https://github.com/mangye16/Cross-Modal-Re-ID-baseline at e817a2672c1e, loss.py, TripletLoss_WRT in float64 on
# filled("features", (10, 8), -scale, scale): the loss and its gradient to row 3. At 12 the nearest non-matches are
# so far that the code's guard against division by 0 outweighs them.
AGW_TRIPLET = {
    0.5: (0.632767896, [-0.0267905035, -0.0201601427, 0.0198837189, -0.0048994091,
                        0.0133460159, -0.0342203218, 0.010536959, 0.0129950501]),
    3.0: (1.5318151348, [-0.0818821035, -0.0511604297, -0.0018245863, 0.0145203679,
                         0.0572280976, -0.0900047197, 0.0033089624, -0.0385388835]),
    12.0: (26.5281131153, [-0.0194889326, 0.0206925419, -0.0190545109, -0.0562807537,
                           -0.0114403712, -0.0228821431, 0.0556790424, -0.0378943437]),
}  # fmt: skip


@pytest.mark.parametrize("scale", AGW_TRIPLET)
def test_weighted_regularised_triplet_is_that_of_agw(scale):
    golden, golden_gradient = AGW_TRIPLET[scale]
    features = filled("features", (10, 8), -scale, scale).requires_grad_()
    loss = weighted_regularised_triplet(features, torch.tensor([0, 0, 1, 1, 2, 0, 0, 1, 1, 2]))
    (gradient,) = torch.autograd.grad(loss, features)
    # The code sets the distance of an image to itself to 1e-6, where it is 0.
    assert loss.item() == pytest.approx(golden, abs=1e-7)
    assert gradient[3].tolist() == pytest.approx(golden_gradient, abs=1e-7)


@pytest.mark.parametrize("identities", [[0, 1, 2, 3], [0, 0, 0, 0]], ids=["no match", "no non-match"])
def test_weighted_regularised_triplet_is_finite_without_pairs(identities):
    features = draw(4, 6)
    loss = weighted_regularised_triplet(features, torch.tensor(identities))
    (gradient,) = torch.autograd.grad(loss, features)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and gradient.any()


def test_symmetric_kl_is_half_of_both_directions():
    a, b = draw(3, 4, seed=1), draw(3, 4, seed=2)
    expected = 0.0
    for row_a, row_b in zip(a.tolist(), b.tolist(), strict=True):
        p, q = softmax(row_a), softmax(row_b)
        expected += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / 2
        expected += sum(y * math.log(y / x) for x, y in zip(p, q, strict=True)) / 2
    assert symmetric_kl(a, b).item() == pytest.approx(expected / 3, rel=1e-12)
    assert torch.autograd.gradcheck(symmetric_kl, (a, b))
    # Of logits in half precision that are near each other, as on a CPU, where autocast leaves their softmax as it is.
    near = a.detach().bfloat16(), (a.detach().bfloat16() * 1.01).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert symmetric_kl(*near).item() == pytest.approx(symmetric_kl(*(x.double() for x in near)).item(), rel=1e-3)


@pytest.mark.parametrize(("kl_weight", "smoothing"), [(0.0, 0.0), (0.5, 0.1)])
def test_identity_consistency_adds_both_cross_entropies_and_the_weighted_divergence(kl_weight, smoothing):
    a, b, labels = draw(3, 4, seed=1), draw(3, 4, seed=2), [2, 0, 3]
    expected = 0.0
    for logits in (a.tolist(), b.tolist()):
        for row, label in zip(logits, labels, strict=True):
            target = [smoothing / 4 + (1 - smoothing) * (k == label) for k in range(4)]
            expected -= sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True)) / 3
    expected += kl_weight * symmetric_kl(a, b).item()

    def of_logits(x, y):
        return identity_consistency(x, y, torch.tensor(labels), kl_weight, smoothing)

    assert of_logits(a, b).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(of_logits, (a, b))


def test_feature_domain_sums_over_paths_and_reverses_what_reaches_the_final_maps():
    torch.manual_seed(0)
    early, late = nn.Linear(3, 2).double(), nn.Linear(4, 2).double()
    path_maps, final_maps = (
        (draw(2, 3, 5, 4, seed=1), draw(3, 3, 5, 4, seed=2)),
        (draw(2, 4, 2, 3), draw(3, 4, 2, 3)),
    )

    def by_loops(head, maps):
        total = 0.0
        for domain, batch in enumerate(maps):
            for image in batch:
                pooled = torch.stack([channel.sum() / channel.numel() for channel in image])
                scores = head.weight @ pooled + head.bias
                total = total + (torch.log(torch.exp(scores).sum()) - scores[domain]) / len(batch)
        return total

    early_error, late_error = by_loops(early, path_maps), by_loops(late, final_maps)
    expected_heads = torch.autograd.grad(
        early_error + late_error, [*early.parameters(), *late.parameters()], retain_graph=True
    )
    expected_early = torch.autograd.grad(early_error, path_maps)
    expected_late = torch.autograd.grad(late_error, final_maps)

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return -0.25 * grad

    loss = feature_domain(path_maps, final_maps, early, late, Reverse.apply)
    torch.testing.assert_close(loss, early_error + late_error)
    inputs = [*early.parameters(), *late.parameters(), *path_maps, *final_maps]
    expected = [*expected_heads, *expected_early, *(-0.25 * grad for grad in expected_late)]
    torch.testing.assert_close(list(torch.autograd.grad(loss, inputs)), expected)
