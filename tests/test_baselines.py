"""The simpler rivals."""

from helpers import baselines, evaluation


def test_the_linear_rival_learns_words():
    texts = [f"{'good' if i % 2 else 'bad'} thing {i}" for i in range(40)]
    rival = baselines.linear_rival(texts, ["ab"[i % 2] for i in range(40)], 0)
    assert list(rival.predict(["a good day", "a bad day"])) == ["b", "a"]
    stray = baselines.linear_rival([*texts, "odd"], [*("ab"[i % 2] for i in range(40)), "c"], 0)
    assert stray.predict(["a good day"])[0] == "b"
    chinese = ["水管漏水了", "今天停水", "账单太高", "请改地址"] * 5
    assert baselines.linear_rival(chinese, ["a", "a", "b", "b"] * 5, 0).predict(["停水"])[0] == "a"
    assert baselines.linear_rival(["x", "y", "z"], ["a", "b", "b"], 0).predict(["x"])[0] in "ab"


def test_the_best_constant_answer():
    def exact(given, right):
        return float(given == right)

    assert baselines.best_constant(["a", "b", "b"], None, 0) == "b"
    assert baselines.best_constant(['{"c":"x"}', '{"c":"x"}'], None, 0) == '{"c":"x"}'
    assert baselines.best_constant(["it is red", "it is blue", "dogs"], evaluation.token_f1, 0).startswith("it is")
    orders = ['{"n": 1, "d": null}', '{"n": 2, "d": null}', '{"n": 1, "d": "x"}']
    assert baselines.best_constant(orders, exact, 0) == '{"n": 1, "d": null}'
