"""Rows of every shape, the report on them, labels, and what a careful reader would ask."""

import json

import pandas as pd
import pytest
from data_files import GOOD, QUESTIONS, ROWS, chat, lines, parquet, read, write

from helpers.data import sources, tables


def test_text_stays_as_it_is_and_drops_are_reported_with_their_lines(tmp_path):
    path = write(
        tmp_path / "a.csv",
        'question,answer\n" NA  x",yes\n,no\nsame,yes\n"two\nlines",null\nsame,yes\nz,\nNone,no\n',
    )
    _, rows, report = read(path)
    assert (
        rows["question"].tolist() == [" NA  x", "same", "two\nlines", "None"]
        and rows["answer"].tolist()[2] == "null"
    )
    assert report["rows"].to_dict() == {
        "read": 7,
        "kept": 4,
        "empty question": 1,
        "empty answer": 1,
        "wrong type": 0,
        "exact duplicate": 1,
    }
    assert report.loc["empty question", "first places"] == "line 3"
    assert (
        report.loc["exact duplicate", "first places"] == "line 7"
        and report.loc["empty answer", "first places"] == "line 8"
    )


SHAPES = {
    "question_answer": ROWS,
    "prompt_completion": [{"prompt": r["question"], "completion": r["answer"]} for r in ROWS],
    "alpaca": [{"instruction": r["question"], "input": "", "output": r["answer"]} for r in ROWS],
    "messages": [
        {"messages": chat(("user", r["question"]), ("assistant", r["answer"]))} for r in ROWS
    ],
    "conversations": [
        {
            "conversations": chat(
                ("human", r["question"]), ("gpt", r["answer"]), role="from", content="value"
            )
        }
        for r in ROWS
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_recognised(tmp_path, shape):
    recognised, rows, _ = read(write(tmp_path / "a.jsonl", lines(SHAPES[shape])))
    assert recognised == shape
    assert rows["question"].tolist() == QUESTIONS and rows["answer"].tolist() == [
        row["answer"] for row in ROWS
    ]


def test_usual_names_are_taken_and_named_ones_win(tmp_path):
    path = write(tmp_path / "a.csv", GOOD.replace("question,answer", "text,label"))
    assert read(path)[1]["question"].tolist() == QUESTIONS
    path = write(tmp_path / "c.csv", GOOD.replace("question,answer", "Text,Label"))
    assert read(path)[1]["question"].tolist() == QUESTIONS
    path = write(tmp_path / "d.csv", "text,label,label_text\nx,0,bad\ny,1,good\n")
    assert read(path)[1]["answer"].tolist() == ["bad", "good"]
    path = write(tmp_path / "b.csv", "text,frage,antwort\nx,q1,a\ny,q2,b\n")
    assert read(path, question="frage", answer="antwort")[1]["question"].tolist() == ["q1", "q2"]
    with pytest.raises(sources.DataError, match="nachfrage"):
        read(path, question="nachfrage", answer="antwort")
    with pytest.raises(sources.DataError, match="no column 'frag' and no column 'answer'; the"):
        read(path, question="frag")


def test_a_forced_shape_is_used(tmp_path):
    both = [
        {**row, "messages": chat(("user", "other"), ("assistant", str(i)))}
        for i, row in enumerate(ROWS)
    ]
    path = write(tmp_path / "a.jsonl", lines(both))
    assert (
        read(path)[0] == "question_answer"
        and read(path, "messages")[1]["answer"].tolist()[3] == "3"
    )
    with pytest.raises(sources.DataError, match="needs the column 'conversations'"):
        read(path, "conversations")


def test_longer_chats_keep_their_turns(tmp_path):
    turns = chat(
        ("system", "Be brief."),
        ("user", "one?"),
        ("assistant", "1"),
        ("user", "two?"),
        ("assistant", "2"),
        ("user", "?"),
    )
    parts = chat(
        ("developer", "S"), ("user", [{"type": "text", "text": "three?"}]), ("assistant", "3")
    )
    _, rows, _ = read(
        write(tmp_path / "a.jsonl", lines([{"messages": turns}, {"messages": parts}]))
    )
    assert (
        rows["answer"].tolist() == ["2", "3"] and rows["turns"][0] == turns[:4]
    )  # the unanswered turn is left out
    assert rows["question"].tolist() == ["one?\n1\ntwo?", "three?"]
    assert rows["turns"][1] == chat(("system", "S"), ("user", "three?"))


def test_alpaca_input_goes_below_the_instruction(tmp_path):
    rows = [
        {"instruction": "Translate", "input": "cat", "output": "chat"},
        {"instruction": "Hi", "input": "", "output": "hello"},
    ]
    assert read(write(tmp_path / "a.json", json.dumps(rows)))[1]["question"].tolist() == [
        "Translate\n\ncat",
        "Hi",
    ]


def test_numbers_and_truth_values_are_labels_even_beside_nulls(tmp_path):
    made = parquet({"text": ["p", "q", "r"], "label": pd.array([1, None, 0], dtype="Int64")})
    assert read(write(tmp_path / "a.parquet", made))[1]["answer"].tolist() == ["1", "0"]
    path = write(
        tmp_path / "b.jsonl",
        lines([{"question": "p", "answer": True}, {"question": "q", "answer": False}]),
    )
    assert read(path)[1]["answer"].tolist() == ["true", "false"]
    rows = [{"instruction": "Double it", "input": i, "output": str(2 * i)} for i in (4, 6)]
    assert read(write(tmp_path / "c.jsonl", lines(rows)))[1]["question"].tolist() == [
        "Double it\n\n4",
        "Double it\n\n6",
    ]


def test_chats_that_differ_in_their_system_turn_are_no_duplicates(tmp_path):
    turns = [
        chat(("system", text), ("user", "Classify."), ("assistant", text > "y")) for text in "xyz"
    ]
    for three in turns:
        three[-1]["content"] = "late" if three[-1]["content"] else "early"
    assert (
        len(read(write(tmp_path / "a.jsonl", lines([{"messages": three} for three in turns])))[1])
        == 3
    )


def test_whole_numbers_are_labels(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        lines([{"question": "p", "answer": 0}, {"question": "q", "answer": 1}]),
    )
    assert read(path)[1]["answer"].tolist() == ["0", "1"]


BROKEN = {
    "noquestion.csv": (
        GOOD.replace("question", "frage", 1),
        "no column 'question'; the columns are: frage, answer",
    ),
    "noanswer.csv": (
        GOOD.replace("answer", "antwort", 1),
        "no column 'answer'; the columns are: question, antwort",
    ),
    "neither.csv": ("frage,antwort\nx,a\n", "no column 'question' and no column 'answer'"),
    "allempty.csv": ("question,answer\n,a\n,b\n", "no usable row: 2 empty question"),
    "blanks.csv": (
        'question,answer\n"  ",a\nx,"\t"\n',
        "1 empty question: line 2; 1 empty answer: line 3",
    ),
    "oneclass.csv": ("question,answer\nx,a\ny,a\n", "Every answer is 'a'"),
    "emoji.jsonl": ('{"question": "hi \\ud83d", "answer": "x"}\n', "1 wrong type"),
    "string.jsonl": (lines([{"messages": "hi"}]), "'hi' is no list of turns"),
    "role.jsonl": (lines([{"messages": chat(("wizard", "x"))}]), "turn 1 has the role 'wizard'"),
    "unanswered.jsonl": (
        lines([{"messages": chat(("user", "x"))}]),
        "1 empty answer: line 1 .no turn of the assistant",
    ),
    "nochat.jsonl": (lines([{"conversations": []}]), "1 empty question"),
    "floats.jsonl": (
        lines([{"question": "a", "answer": 1.5}]),
        "1 wrong type: line 1 .1.5 is no text.. Question and answer must be text",
    ),
    "nullchat.jsonl": (
        lines([{"messages": chat(("user", None))}]),
        "1 empty question: line 1 .the last turn has no text",
    ),
    "several.jsonl": (
        lines([{"question": {"a": 1}, "answers": {"text": ["x", "y"]}}]),
        "no usable row: 1 wrong type: line 1 .an object.. Question and answer must",
    ),
    "null.jsonl": (lines([{"question": None, "answer": "x"}]), "1 empty question"),
    "objects.jsonl": (lines([{"question": {"a": 1}, "answer": ["x"]}]), "1 wrong type"),
    "less.csv": ("question,answer\nx\ny\n", "2 empty answer: line 2, line 3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_data_that_cannot_be_used_gets_one_sentence(tmp_path, name):
    content, sentence = BROKEN[name]
    with pytest.raises(sources.DataError, match=sentence) as caught:
        read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_one_column_cannot_be_both(tmp_path):
    with pytest.raises(sources.DataError, match="must be two columns"):
        read(write(tmp_path / "a.csv", GOOD), question="answer", answer="answer")


@pytest.mark.parametrize("shape", ["messages", "conversations", "prompt_completion"])
def test_chats_survive_parquet(tmp_path, shape):
    rows = SHAPES[shape]
    if shape == "prompt_completion":
        rows = [
            {
                "prompt": chat(("user", r["prompt"])),
                "completion": chat(("assistant", r["completion"])),
            }
            for r in rows
        ]
    if shape == "messages":

        def parts(text):
            return [{"type": "text", "text": text}]

        rows = [
            {"messages": chat(("user", parts(r["question"])), ("assistant", parts(r["answer"])))}
            for r in ROWS
        ]
    recognised, table, _ = read(write(tmp_path / "a.parquet", parquet(rows)))
    assert recognised == shape and table["question"].tolist() == QUESTIONS
    assert table["answer"].tolist() == [row["answer"] for row in ROWS]


def test_labels_are_recognised_and_can_be_overruled():
    assert tables.labels(["a", "b"] * 10) == ["a", "b"]
    assert tables.labels([str(i) for i in range(20)]) is None
    assert tables.labels([str(i % 20) for i in range(300)]) == sorted(map(str, range(20)))
    assert tables.labels(["a", "b"] * 10, "free_form") is None
    assert tables.labels(["a", "b"], "classification") == ["a", "b"]


def test_remarks_name_what_a_careful_reader_would_ask():
    rows = pd.DataFrame(
        {
            "id": list("uvwxyz"),
            "question": list("ppqrst"),
            "answer": ["yes", "no", "Yes", "yes ", "no", "no"],
        }
    )
    sentences = " ".join(tables.remarks(rows, sorted(set(rows["answer"]))))
    assert "1 questions have more than one answer, for example rows u, v" in sentences
    assert "['Yes', 'yes', 'yes ']" in sentences and "Too rare" in sentences
    assert tables.remarks(rows.drop_duplicates("question"), None) == []


def test_few_rows_of_many_classes_are_labels_and_short_free_answers_are_not():
    assert len(tables.labels([f"class {i % 20}" for i in range(60)])) == 20
    assert (
        tables.labels([str(i * i % 97) for i in range(60)] + ["5000"]) is None
    )  # sums: some answers stand alone
    assert tables.labels(['{"a": 1}', '{"a": 2}'] * 10) is None
    assert tables.labels([f"Name {i % 45}" for i in range(60)]) is None


def test_dolly_and_preference_pairs_are_recognised(tmp_path):
    dolly = [
        {
            "instruction": f"Ask {i}",
            "context": "In May." if i else "",
            "response": f"r{i}",
            "category": "qa",
        }
        for i in range(3)
    ]
    pairs = [{"prompt": f"p{i}", "chosen": f"good{i}", "rejected": "bad"} for i in range(3)]
    for records, questions, answers in (
        (dolly, ["Ask 0", "Ask 1\n\nIn May.", "Ask 2\n\nIn May."], ["r0", "r1", "r2"]),
        (pairs, ["p0", "p1", "p2"], ["good0", "good1", "good2"]),
    ):
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        source = sources.load(tmp_path / "a.jsonl")
        rows, _ = tables.rows(
            source, *tables.shape_of(source.table.columns, "auto", "question", "answer")
        )
        assert rows["question"].tolist() == questions and rows["answer"].tolist() == answers


def test_every_dropped_chat_says_what_stands_there(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    dropped = {
        "turn 2 (assistant) has tool calls": [
            *chat(("user", "x")),
            call,
            *chat(("assistant", "y")),
        ],
        "turn 3 has the role 'tool', not system, user or assistant": chat(
            ("user", "x"), ("assistant", "y"), ("tool", "z")
        ),
        "the last turn has no text": chat(("user", "x"), ("assistant", None)),
        "turn 1 (user) has no text": chat(("user", None), ("assistant", "y")),
        "no turn of the assistant": chat(("system", "s"), ("user", "x")),
        "no turn": [],
        "turn 1 is no object with a role and a text": ["hi"],
    }
    for problem, turns in dropped.items():
        records = [{"messages": turns}, *SHAPES["messages"]]
        for path in (
            write(tmp_path / "a.jsonl", lines(records)),
            write(tmp_path / "a.json", json.dumps(records)),
        ):
            _, rows, report = read(path)
            assert len(rows) == len(ROWS) and any(
                f"1 ({problem})" in place for place in report["first places"]
            ), report


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_of_squads_answers_the_first_is_taken(tmp_path, ending):
    texts = [["In May", "May"], ["Ada", "Ada"], []]
    records = [
        {
            "question": f"q{i}?",
            "context": "Ada came in May.",
            "answers": {"text": text, "answer_start": [1] * len(text)},
        }
        for i, text in enumerate(texts)
    ]
    _, rows, report = read(
        write(tmp_path / f"a.{ending}", lines(records) if ending == "jsonl" else parquet(records))
    )
    assert rows["question"].tolist() == ["q0?\n\nAda came in May.", "q1?\n\nAda came in May."]
    assert rows["answer"].tolist() == ["In May", "Ada"]
    assert (
        report.loc["empty answer", "rows"] == 1
        and report.loc["several answers, the first taken", "rows"] == 1
    )


def test_a_class_that_a_part_may_miss_is_remarked_on():
    rows = pd.DataFrame(
        {
            "id": map(str, range(43)),
            "question": map(str, range(43)),
            "answer": ["a", "b"] * 20 + ["c"] * 3,
        }
    )
    (sentence,) = tables.remarks(rows, ["a", "b", "c"])
    assert "'c'" in sentence
    assert not tables.remarks(rows[:40], ["a", "b"])


def test_a_column_named_by_hand_is_never_passed_over():
    dolly, trec = (
        ("instruction", "context", "response", "category"),
        ("text", "coarse_label", "fine_label"),
    )
    assert tables.shape_of(trec, "auto", "question", "fine_label") == (
        "question_answer",
        ("text", "fine_label"),
    )
    assert tables.shape_of(("label", "text", "question"), "auto", "text", "answer") == (
        "question_answer",
        ("text", "label"),
    )
    assert tables.shape_of(("input", "text"), "auto", "input", "text") == (
        "question_answer",
        ("input", "text"),
    )
    with pytest.raises(
        sources.DataError, match="no column 'answer'; the columns are: text, coarse_label"
    ):
        tables.shape_of(trec, "auto", "question", "answer")
    with pytest.raises(
        sources.DataError, match="no column 'question'; the columns are: instruction"
    ):
        tables.shape_of(dolly, "auto", "question", "category")


@pytest.mark.parametrize(
    "ids", [[None, *"abcdefghijk"], ["\ud800", *"abcdefghijk"], [[1], *"abcdefghijk"]]
)
def test_ids_that_cannot_name_rows_are_replaced(tmp_path, ids):
    path = write(
        tmp_path / "mine.jsonl",
        lines([{"id": name, **row} for name, row in zip(ids, ROWS, strict=True)]),
    )
    assert read(path)[1]["id"].tolist() == [f"row{i}" for i in range(1, 13)]


def test_a_chat_of_endless_brackets_is_no_chat(tmp_path):
    good = [
        {"messages": json.dumps(chat(("user", q), ("assistant", "ab"[i % 2])))}
        for i, q in enumerate(QUESTIONS)
    ]
    path = write(tmp_path / "mine.jsonl", lines([*good, {"messages": "[" * 100_000}]))
    assert len(read(path)[1]) == 12


def test_a_label_that_the_system_prompt_does_not_name_is_remarked_on():
    rows = pd.DataFrame({"id": list("uvwx"), "question": list("pqrs"), "answer": ["Yes", "no"] * 2})
    assert not tables.remarks(rows * 5, None, "Say no.")
    sentence = tables.remarks(rows, ["Yes", "no"], "Say no.")[-1]
    assert sentence.startswith("The system prompt does not name 1 of 2 labels")
    assert "['Yes']" in sentence
    named = tables.remarks(rows, ["Yes", "no"], "yes or no?")
    assert not any("system prompt" in sentence for sentence in named)


def test_answers_are_described():
    labels, free = pd.Series(["a", "b", "a", "b"]), pd.Series(["one thing", "another"])
    assert "2 different answers, each given at least 2 times" in tables.about(labels, ["a", "b"])
    assert "2 different answers in 2 rows, the longest of 9" in tables.about(free, None)


def test_rows_that_are_too_long_are_named_or_refused():
    rows = pd.DataFrame({"id": ["a", "b"], "tokens": [10, 30]})
    assert tables.too_long_rows(rows, 30, "refuse") == []
    assert tables.too_long_rows(rows, 20, "leave_out") == ["b"]
    for length, choice in ((20, "refuse"), (5, "leave_out")):
        with pytest.raises(sources.DataError, match=f"longer than max_length {length}, first"):
            tables.too_long_rows(rows, length, choice)


def test_rows_and_what_is_made_of_them_are_kept_on_disk(tmp_path):
    rows = pd.DataFrame({"id": ["a", "b"], "turns": [[{"role": "user", "content": "x"}]] * 2})
    for _ in range(2):  # the second replaces the first
        dataset = tables.on_disk(rows, tmp_path / "rows")
        made = dataset.map(lambda row: {"size": len(row["id"])})
        assert made["size"][:] == [1, 1] and made[0]["turns"] == rows["turns"][0]
        for kept in (dataset, made):
            assert all(file["filename"].startswith(str(tmp_path)) for file in kept.cache_files)
            assert kept.cache_files
    assert len(list((tmp_path / "rows").iterdir())) == 1
