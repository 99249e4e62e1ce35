"""The model card: it says what it was given, calls the rest not recorded, and trusts no text."""

from toplight_ext.deploy import Parity, model_card

ARGUMENTS = {"name": "mobilenetv3_small_100", "neck": "fdr", "slices": [4, 2], "last_stride": 2, "duplicated": 1}
RESULT = {
    "protocol": "SYSU-MM01 all-search",
    "metric": "cosine",
    "r1": 0.4321,
    "mAP": 0.4,
    "mINP": 0.25,
    "std": {"r1": 0.0123, "mAP": 0.01, "mINP": 0.02},
    "trials": 10,
    "valid_queries": 3803,
    "images": ["sysu", "test"],
}


def test_what_is_not_known_is_said():
    card = model_card("network", ARGUMENTS, {"size": [128, 64]})
    assert "trained on: not recorded" in card and "licence of the data: not recorded" in card
    assert "## Numbers\nNot recorded." in card
    assert "without a legal basis" in card
    assert "128 x 64" in card


def test_numbers_come_with_protocol_spread_and_parity():
    metadata = {"size": [128, 64], "trained_on": [{"dataset": "sysu", "split": "train"}]}
    parity = Parity(("visible.onnx",), "1124", 1e-6, 1.0, 1.0, 0.43, -0.0021, 0.4, 0.0)
    card = model_card("network", ARGUMENTS, metadata, [RESULT], "research only", [parity])
    assert "trained on: sysu train" in card and "licence of the data: research only" in card
    (row,) = [line for line in card.splitlines() if "all-search" in line]
    assert "43.21 ± 1.23" in row and "| 10 | 3803 |" in row and "sysu test" in row
    assert "-0.21" in next(line for line in card.splitlines() if line.startswith("| visible.onnx"))
    single = model_card("network", ARGUMENTS, metadata, [{**RESULT, "trials": 1}])
    assert "43.21 |" in single and "±" not in single


def test_text_of_strangers_stays_text():
    hostile = {"dataset": "x](http://evil) <script>\n# Approved | yes", "split": None}
    card = model_card("a\n# b", ARGUMENTS, {"trained_on": [hostile], "recipe": "|x|"})
    assert "\n# Approved" not in card and "<script>" not in card.replace("\\<script\\>", "")
    assert "](http" not in card.replace("\\](http", "")
    assert "| recipe | \\|x\\| |" in card
