"""Protocols against public evaluators, run beside ours; their numbers are recorded here, with how they were made.

Where a public evaluator leaves the stated rule, the test shows by how much and why.
"""

import runpy

import evaluation_cases as cases
import numpy as np
import pytest

from toplight_ext import evaluation
from toplight_ext.evaluation import LLCM, CameraFilter, Features, Labels, SysuMM01, rank_distances, verification_rates

RANKS = (1, 5, 10, 20)


def shuffled(features, seed=0):
    """The same images in another order, which no protocol may depend on."""
    order = np.random.default_rng(seed).permutation(len(features))
    names = ("features", "identity", "camera", "modality", "index")
    return Features(**{name: getattr(features, name)[order] for name in names})


def check(result, rates, mean_ap, mean_inp):
    """rank-1/5/10/20, which AGW's and DEEN's code round to float32, and mAP and mINP, which they do not."""
    found = [getattr(result, f"r{rank}") for rank in RANKS]
    np.testing.assert_allclose(found, rates, atol=1e-7)
    count = result.valid_queries * result.trials
    np.testing.assert_allclose(found, np.rint(np.array(rates) * count) / count, rtol=1e-12)
    assert (result.mAP, result.mINP) == pytest.approx((mean_ap, mean_inp), rel=1e-12)


# eval_sysu of mangye16/Cross-Modal-Re-ID-baseline, commit e817a267, on the queries and galleries that its
# process_query_sysu and process_gallery_sysu found for trials 0 to 9 in a tree of empty files with the names of
# cases.sysu_like(1): NumPy 2.4, distances as its test.py (minus the product of unit features). Ten shots, which its
# code does not draw, by random.sample over the same files. With ties: cases.sysu_like(1, ties=True), Euclidean
# distances of SciPy, and np.argsort made stable.
AGW_SYSU = {
    ("all", 1, False): (
        (0.13916255980730058, 0.442610839009285, 0.6561576306819916, 0.8698275864124299),
        0.1818019259362247,
        0.10221429181379156,
    ),
    ("all", 10, False): (
        (0.16083743870258332, 0.5198275864124298, 0.7230295598506927, 0.9109605848789215),
        0.11033288271443562,
        0.03798227589841895,
    ),
    ("indoor", 1, False): (
        (0.12461964339017868, 0.4182572662830353, 0.6322268545627594, 0.8614107966423035),
        0.24580015709702213,
        0.22147874881719987,
    ),
    ("indoor", 10, False): (
        (0.1643153578042984, 0.5359613001346588, 0.7466113567352295, 0.9278008341789246),
        0.1261038900543157,
        0.050546455666846735,
    ),
    ("all", 1, True): (
        (0.11539408937096596, 0.3990147769451141, 0.600738912820816, 0.8380541861057281),
        0.15929401918724476,
        0.08714250829853942,
    ),
    ("all", 10, True): (
        (0.13238916397094727, 0.48349753618240354, 0.7076354682445526, 0.8931034445762634),
        0.09355066912084149,
        0.034538584356934666,
    ),
    ("indoor", 1, True): (
        (0.10677731931209564, 0.37980636954307556, 0.5864453911781311, 0.8452282249927521),
        0.22251174760938425,
        0.19825214450344747,
    ),
    ("indoor", 10, True): (
        (0.12572614550590516, 0.4865836828947067, 0.695574015378952, 0.896957129240036),
        0.10631462054023921,
        0.04542464878584865,
    ),
}


@pytest.mark.parametrize(("mode", "shots", "ties"), AGW_SYSU)
def test_agw_on_sysu(mode, shots, ties):
    features = shuffled(cases.sysu_like(1, ties))
    result = evaluation.evaluate(features, SysuMM01(mode, shots), "euclidean" if ties else "cosine")
    check(result, *AGW_SYSU[mode, shots, ties])
    assert result.protocol == f"SYSU-MM01 {mode}-search {shots}-shot, AGW seeds"


def test_agw_sorts_unstably():
    """The row ("all", 10, True) as AGW's code gives it unchanged: its argsort moves tied images about."""
    result = evaluation.evaluate(cases.sysu_like(1, ties=True), SysuMM01("all", 10), "euclidean")
    unstable_r1, unstable_map = 0.13411330059170723, 0.09427685856451598
    assert unstable_r1 - result.r1 == pytest.approx(0.0017, abs=1e-4)
    assert unstable_map - result.mAP == pytest.approx(0.0007, abs=1e-4)


# eval_llcm of ZYK100/LLCM (DEEN), commit 886e27ca, in the same way: process_query_llcm and process_gallery_llcm on a
# tree of cases.llcm_like(2). `deen` is its test_mode [2, 1], which it calls visible to infrared; the plain
# reading was run with its functions, mode 1 for queries and 2 for the gallery.
DEEN_LLCM = {
    ("infrared", "visible", False, False): (
        (0.1732467532157898, 0.532467532157898, 0.7496103882789612, 0.9335064828395844),
        0.21045163986048848,
        0.11551731757894376,
    ),
    ("visible", "infrared", True, False): (
        (0.17706422060728072, 0.5715596318244934, 0.76605504155159, 0.9642201900482178),
        0.1557692236911597,
        0.06245912398784823,
    ),
    ("visible", "infrared", False, False): (
        (0.2112526535987854, 0.5484076380729676, 0.7458598792552948, 0.9363057374954223),
        0.2368763836808883,
        0.13711133472497944,
    ),
    ("infrared", "visible", False, True): (
        (0.17454545348882675, 0.49792207181453707, 0.7083116888999939, 0.9187013030052185),
        0.19288733842116895,
        0.0988010812275652,
    ),
    ("visible", "infrared", True, True): (
        (0.15963302552700043, 0.5137614607810974, 0.7366972446441651, 0.9513761460781097),
        0.13983828471539303,
        0.051998588859755945,
    ),
    ("visible", "infrared", False, True): (
        (0.1645435243844986, 0.48195329308509827, 0.7023354649543763, 0.9299363017082214),
        0.19287782583540586,
        0.10570707656970654,
    ),
}


@pytest.mark.parametrize(("query", "gallery", "deen", "ties"), DEEN_LLCM)
def test_deen_on_llcm(query, gallery, deen, ties):
    features = shuffled(cases.llcm_like(2, ties))
    protocol = LLCM(query, gallery, deen)
    result = evaluation.evaluate(features, protocol, "euclidean" if ties else "cosine")
    check(result, *DEEN_LLCM[query, gallery, deen, ties])
    assert (result.queries, result.gallery) == {
        ("infrared", False): (385, 135), ("visible", True): (109, 471), ("visible", False): (471, 109)
    }[query, deen]
    assert str(protocol.direction) == ("infrared->visible" if deen else f"{query}->{gallery}")


# AGW's eval_regdb and eval_sysu and DEEN's eval_llcm, at the commits above, on random_distances(seed).
RANDOM = {
    ("regdb", 0): ((0.03875968977808952, 0.13178294897079468, 0.20155039429664612, 0.3720930218696594),
                   0.03977439940374136, 0.028419204811047698),
    ("regdb", 1): ((0.007299270015209913, 0.08759123831987381, 0.22627736628055573, 0.43795621395111084),
                   0.037933842853566796, 0.027667825410748196),
    ("sysu", 0): ((0.03875968977808952, 0.13953489065170288, 0.23255814611911774, 0.5193798542022705),
                  0.040195984138778465, 0.02857829940997269),
    ("sysu", 1): ((0.007299270015209913, 0.09489051252603531, 0.2700729966163635, 0.5620437860488892),
                  0.038144192060507225, 0.02765313636281602),
    ("llcm", 0): ((0.03875968977808952, 0.11627907305955887, 0.20155039429664612, 0.40310078859329224),
                  0.036125532574123174, 0.023862154109783304),
    ("llcm", 1): ((0.007299270015209913, 0.08029197156429291, 0.21897810697555542, 0.5036496520042419),
                  0.03447456153723683, 0.024094172347138273),
}  # fmt: skip
RULES = {
    "regdb": (CameraFilter(), "images"),
    "sysu": (CameraFilter(pairs=((3, 2),)), "identities"),
    "llcm": (CameraFilter(same_camera=True), "identities"),
}


def random_distances(seed):
    rng = np.random.default_rng(seed)
    distances = rng.standard_normal((150, 400))
    identities = rng.integers(0, 45, 150), rng.integers(0, 40, 400)
    cameras = rng.integers(1, 7, 150), rng.integers(1, 7, 400)
    return distances, *(Labels(*side) for side in zip(identities, cameras, strict=True))


@pytest.mark.parametrize(("name", "seed"), RANDOM)
def test_rules_of_agw_and_deen_on_random_distances(name, seed):
    rates, mean_ap, mean_inp = RANDOM[name, seed]
    ranking = rank_distances(*random_distances(seed), *RULES[name])
    valid = ranking.valid
    assert not valid.all()  # identities 40 to 44 are nowhere in the gallery
    count = valid.sum()
    found = ranking.cmc(20)[[rank - 1 for rank in RANKS]]
    np.testing.assert_allclose(found, np.rint(np.array(rates) * count) / count, rtol=1e-12)
    assert ranking.average_precision[valid].mean() == pytest.approx(mean_ap, rel=1e-12)
    assert ranking.inverse_negative_penalty[valid].mean() == pytest.approx(mean_inp, rel=1e-12)


# The official SYSU-MM01 code (wuancong/SYSU-MM01, commit 04991127) in GNU Octave 7.3 on the features of
# make_synthetic_features.py with seed 1, rounded to whole numbers so that exact distances tie.
# evaluation_SYSU_MM01 unmodified; pdist2, a toolbox function, as the root of summed squares; `save` disabled.
# cmc_mean([1 5 10 20]) and map_mean.
OFFICIAL_WITH_TIES = {
    ("all", 1): (0.146621088614, 0.402103602419, 0.562634762030, 0.740310281357, 0.163218225034),
    ("indoor", 1): (0.171920289855, 0.455027173913, 0.637318840580, 0.821331521739, 0.264376266016),
    ("indoor", 10): (0.240036231884, 0.590760869565, 0.764809782609, 0.916213768116, 0.148257534817),
}


@pytest.mark.parametrize(("mode", "shots"), OFFICIAL_WITH_TIES)
def test_official_sysu_code_with_ties(shared, mode, shots):
    folder = shared / "protocol" / "sysu"
    features, identity, camera, index = runpy.run_path(folder / "make_synthetic_features.py")["synthetic_features"](1)
    protocol = evaluation.parse_protocol("sysu", mode, shots, folder / "rand_perm_cam.mat")
    result = evaluation.evaluate(Features(np.round(features), identity, camera, index=index), protocol, "euclidean")
    found = [result.r1, result.r5, result.r10, result.r20, result.mAP]
    np.testing.assert_allclose(found, OFFICIAL_WITH_TIES[mode, shots], rtol=0, atol=1e-12)


# Nearest: evaluate2 of deepinsight/insightface, recognition/idmmd/evaluate/eval_ops.py, commit 159b0f92, with
# scikit-learn 1.9.1. Strict: the greatest true-positive rate of roc_curve(drop_intermediate=False) with fpr <= FAR.
VERIFICATION = {
    ("ties", 3, 16): {
        "VR@FAR=1% strict": 0.04017857142857143,
        "VR@FAR=1% nearest": 0.04017857142857143,
        "VR@FAR=0.1% strict": 0.0,
        "VR@FAR=0.1% nearest": 0.004464285714285714,
    },
    ("untied", 4, 64): {
        "VR@FAR=1% strict": 0.20334928229665072,
        "VR@FAR=1% nearest": 0.20574162679425836,
        "VR@FAR=0.1% strict": 0.03827751196172249,
        "VR@FAR=0.1% nearest": 0.0430622009569378,
    },
}
TOP1_UNTIED = 0.3416666666666667


@pytest.mark.parametrize(("name", "seed", "dim"), VERIFICATION)
def test_faces_of_public_code(name, seed, dim):
    rng = np.random.default_rng(seed)
    prototypes = rng.standard_normal((25, dim))
    query_identity, gallery_identity = rng.integers(0, 25, 120), rng.integers(0, 20, 90)
    query = prototypes[query_identity] + 2.2 * rng.standard_normal((120, dim))
    gallery = prototypes[gallery_identity] + 2.2 * rng.standard_normal((90, dim))
    if name == "ties":
        query, gallery = np.sign(query), np.sign(gallery)
    labels = [Labels(identity, 0 * identity) for identity in (query_identity, gallery_identity)]
    assert verification_rates(query, gallery, *labels) == VERIFICATION[name, seed, dim]

    features = Features(
        np.concatenate([query, gallery]),
        np.concatenate([query_identity, gallery_identity]),
        np.zeros(210, int),
        modality=np.array(["infrared"] * 120 + ["visible"] * 90),
    )
    result = evaluation.evaluate(features, evaluation.Faces())
    assert result.verification == VERIFICATION[name, seed, dim]
    # That code divides by all probes; five identities are not in the gallery and cannot be found.
    if name == "untied":
        assert result.r1 * result.valid_queries / result.queries == pytest.approx(TOP1_UNTIED, rel=1e-12)
