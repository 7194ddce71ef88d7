"""Reading question/answer files: every shape and source, the report, and a sentence for each broken file."""

import gzip
import json
import lzma
import subprocess
import sys
import zipfile

import pandas as pd
import pytest
import zstandard

from helpers.data import sources, tables

QUESTIONS = [f"What about thing number {i}?" for i in range(12)]
ROWS = [{"question": q, "answer": "ab"[i % 2]} for i, q in enumerate(QUESTIONS)]
GOOD = "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def read(path, shape="auto", question="question", answer="answer"):
    """(shape, rows, report) as notebook 01 gets them."""
    source = sources.load(path)
    shape, columns = tables.shape_of(source.table.columns, shape, question, answer)
    return shape, *tables.rows(source, shape, columns)


def chat(*turns, role="role", content="content"):
    return [{role: who, content: text} for who, text in turns]


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
    found, rows, _ = read(write(tmp_path / "a.jsonl", lines(SHAPES[shape])))
    assert found == shape
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


def zipped(**files):
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return stream.getvalue()


def parquet(rows):
    import io

    stream = io.BytesIO()
    pd.DataFrame(rows).to_parquet(stream)
    return stream.getvalue()


SOURCES = {
    "a.csv": GOOD,
    "bom.csv": "\ufeff" + GOOD,
    "mac.csv": GOOD.replace("\n", "\r"),
    "windows.csv": GOOD.replace("\n", "\r\n"),
    "a.tsv": GOOD.replace(",", "\t"),
    "A.TSV": GOOD.replace(",", "\t"),
    "a.json": json.dumps(ROWS),
    "nested.json": json.dumps({"version": 1, "data": ROWS}),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "lines.json": lines(ROWS),
    "a.jsonl": lines(ROWS),
    "a.parquet": parquet(ROWS),
    "a.csv.gz": gzip.compress(GOOD.encode()),
    "a.csv.zst": zstandard.compress(GOOD.encode()),
    "a.jsonl.zst": zstandard.compress(lines(ROWS).encode()),
    "a.jsonl.xz": lzma.compress(lines(ROWS).encode()),
    "a.csv.zip": zipped(a_csv=GOOD),
    "a.jsonl.zip": zipped(a_jsonl=lines(ROWS)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(tmp_path, name):
    assert read(write(tmp_path / name, SOURCES[name]))[1]["question"].tolist() == QUESTIONS


def test_a_folder_is_one_table_and_says_which_file(tmp_path):
    write(tmp_path / "d" / "1.csv", GOOD)
    write(
        tmp_path / "d" / "2.jsonl",
        lines([{"question": "x", "answer": ""}, {"question": "last", "answer": "b"}]),
    )
    write(tmp_path / "d" / "README.md", "not data")
    _, rows, report = read(tmp_path / "d")
    assert rows["question"].tolist() == [*QUESTIONS, "last"]
    assert report.loc["empty answer", "first places"] == "2.jsonl line 1"


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


def test_long_texts_and_nested_ids_are_read(tmp_path):
    path = write(tmp_path / "long.csv", f'question,answer\n"{"x " * 80_000}",yes\nb,no\n,no\n')
    assert read(path)[2].loc["empty question", "first places"] == "line 4"
    path = write(
        tmp_path / "a.jsonl", lines([{"id": {"$oid": str(i)}, **row} for i, row in enumerate(ROWS)])
    )
    assert len(read(path)[1]) == 12


def test_whole_numbers_are_labels(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        lines([{"question": "p", "answer": 0}, {"question": "q", "answer": 1}]),
    )
    assert read(path)[1]["answer"].tolist() == ["0", "1"]


BROKEN = {
    "nothing-here.csv": (None, "no such file"),
    "questoins.csv": (None, "no such file"),
    "a.txt": (GOOD, "ending"),
    "a.xlsx": (b"PK", "Save the sheet as CSV"),
    "noending": (GOOD, "ending"),
    "empty.csv": ("", "empty.csv is empty"),
    "empty.jsonl": ("", "empty.jsonl is empty"),
    "blank.jsonl": ("\n\n", "holds no row"),
    "header.csv": ("question,answer\n", "holds no row"),
    "latin1.csv": ((GOOD + "caf\xe9,a\n").encode("latin-1"), "line 14.*Windows-1252"),
    "latin1.csv.gz": (
        gzip.compress((GOOD + "caf\xe9,a\n").encode("latin-1")),
        "line 14.*Windows-1252",
    ),
    "latin1.jsonl": (
        '{"question": "caf\xe9", "answer": "a"}'.encode("latin-1"),
        "line 1.*Windows-1252",
    ),
    "utf16.csv": (GOOD.encode("utf-16"), "UTF-16"),
    "noquestion.csv": (
        GOOD.replace("question", "frage", 1),
        "no column 'question'; the columns are: frage, answer",
    ),
    "noanswer.csv": (
        GOOD.replace("answer", "antwort", 1),
        "no column 'answer'; the columns are: question, antwort",
    ),
    "semicolons.csv": (GOOD.replace(",", ";"), "separated by something else"),
    "tabs.csv": (GOOD.replace(",", "\t"), "separated by something else"),
    "commas.tsv": (GOOD, "',' instead of"),
    "european.csv": ("question;answer\nx, y, z;a\nw;b\n", "separated by something else"),
    "swallowed.tsv": (
        'question\tanswer\n"x\ta\ny\tb\nz"\tc\n',
        "row 1 begins with a quotation mark",
    ),
    "neither.csv": ("frage,antwort\nx,a\n", "no column 'question' and no column 'answer'"),
    "nul.jsonl": (b'{"question": "x", "answer": "y"}\n\x00\n', "line 2 holds a NUL byte"),
    "twice.csv": ("question,question,answer\nx,y,a\n", "'question' stands more than once"),
    "allempty.csv": ("question,answer\n,a\n,b\n", "no usable row: 2 empty question"),
    "blanks.csv": (
        'question,answer\n"  ",a\nx,"\t"\n',
        "1 empty question: line 2; 1 empty answer: line 3",
    ),
    "oneclass.csv": ("question,answer\nx,a\ny,a\n", "Every answer is 'a'"),
    "more.csv": ("question,answer\nx,a,c\ny,b,d\n", "more fields than the header"),
    "comma.csv": ("question,answer\nx,a\nhello, there,b\n", "line 3, has 3 fields"),
    "quote.csv": ('question,answer\n"x,a\ny,b\n', "quotation mark"),
    "cut.json": ('[{"question": "x", "answer": "y"},', "cannot be read as json"),
    "text.json": ('"hello"', "list of objects"),
    "lists.json": ("[[1, 2]]", "list of objects"),
    "numbers.json": ('{"a": 1}', "list of objects"),
    "none.json": ("[]", "holds no row"),
    "bad.jsonl": ('{"question": "x", "answer": "y"}\n{oops\n', "line 2, is not JSON"),
    "list.jsonl": ('{"question": "x", "answer": "y"}\n[1]\n', "line 2, should be an object"),
    "pretty.jsonl": (json.dumps(ROWS, indent=2), "the ending should be .json"),
    "garbage.parquet": (b"garbage", "cannot be read as parquet"),
    "cut.parquet": (parquet(ROWS)[:-20], "cannot be read as parquet"),
    "garbage.csv.gz": (b"not gz", "cannot be read as csv"),
    "cut.jsonl.gz": (gzip.compress(lines(ROWS).encode())[:40], "ended before"),
    "cut.csv.xz": (lzma.compress(GOOD.encode())[:40], "ended before"),
    "bad.csv.xz": ("question,answer", "cannot be read as csv"),
    "bad.csv.zip": ("question,answer", "cannot be read as csv"),
    "bad.csv.zst": ("question,answer", "cannot be read as csv"),
    "emoji.jsonl": ('{"question": "hi \\ud83d", "answer": "x"}\n', "1 wrong type"),
    "two.csv.zip": (zipped(a_csv=GOOD, b_csv=GOOD), "two.csv.zip holds 2 files"),
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
    "null.jsonl": (lines([{"question": None, "answer": "x"}]), "1 empty question"),
    "objects.jsonl": (lines([{"question": {"a": 1}, "answer": ["x"]}]), "1 wrong type"),
    "emptydir": ("folder", "no file in this folder"),
    "folder.csv": ("folder", "no file in this folder"),
    "utf16.json": (json.dumps(ROWS).encode("utf-16"), "UTF-16"),
    "nobom16.csv": (GOOD.encode("utf-16-le"), "line 1 holds a NUL byte"),
    "utf32.csv": (GOOD.encode("utf-32"), "UTF-32"),
    "nul.csv": (GOOD + "\0\0", "line 14 holds a NUL byte"),
    "excel.csv": (zipped(a_xml="x", b_xml="y"), "Excel workbook"),
    "oldexcel.csv": (b"\xd0\xcf\x11\xe0" + bytes(500), "old Excel workbook"),
    "gzip.csv": (gzip.compress(GOOD.encode()), "let its name end in .gz"),
    "columns.csv": (parquet(ROWS), "let its name end in .parquet"),
    "page.csv": ("<!DOCTYPE html>\n<html><body>, a, b</body></html>\n", "a web page"),
    "page.json": ("\n<HTML>", "a web page"),
    "page.parquet": ("<html>404</html>", "a web page"),
    "paper.csv": (b"%PDF-1.4\n%\xe2\xe3", "a PDF"),
    "pointer.parquet": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
        "git lfs pull",
    ),
    "archive.csv.gz": (gzip.compress(b"a.csv" + bytes(252) + b"ustar" + bytes(250)), "tar archive"),
    "none.csv.zip": (zipped(), "holds no files"),
    "cut.csv.gz": (gzip.compress(GOOD.encode())[:60], "cut short: fetch it again"),
    "half.parquet": (
        parquet(ROWS)[: len(parquet(ROWS)) // 2],
        "cut short: write or fetch it again",
    ),
    "comma.json": ('[{"question": "x", "answer": "y"},]', "no comma before a closing bracket"),
    "single.json": ("[{'question': 'x'}]", "double quotes"),
    "column.jsonl": (
        lines(ROWS) + '{"question": "x", "answer"}\n',
        "line 13, is not JSON: Expecting ':' delimiter at column 27",
    ),
    "blank.csv": ("\n\n", "blank.csv is blank"),
    "title.csv": ("My export\nquestion,answer\nx,a\ny,b\n", "let the first line name the columns"),
    "less.csv": ("question,answer\nx\ny\n", "2 empty answer: line 2, line 3"),
    "uneven.json": ('{"question": ["x", "y"], "answer": ["a"]}', "same length"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_one_sentence_that_names_it(tmp_path, name):
    content, said = BROKEN[name]
    write(tmp_path / "questions.csv", GOOD)
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        write(tmp_path / name, content)
    with pytest.raises(sources.DataError, match=said) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if name == "questoins.csv":
        assert "Did you mean questions.csv?" in str(caught.value)


def test_files_of_a_folder_must_fit_together(tmp_path):
    write(tmp_path / "a.csv", GOOD)
    write(tmp_path / "b.csv", "frage,antwort\nx,y\n")
    with pytest.raises(
        sources.DataError,
        match="b.csv has the columns frage, antwort, but a.csv has question, answer",
    ):
        read(tmp_path)


def test_one_column_cannot_be_both(tmp_path):
    with pytest.raises(sources.DataError, match="must be two columns"):
        read(write(tmp_path / "a.csv", GOOD), question="answer", answer="answer")


def test_a_hub_dataset_is_read_with_its_label_names(monkeypatch):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = datasets.Dataset.from_dict(
        {"text": ["x", "y", "z"], "label": [1, 0, -1]}, features=features
    )
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or made
    )
    _, rows, report = read("someone/reviews")
    assert asked == [(("someone/reviews",), {"split": "train"})]
    assert (
        rows["answer"].tolist() == ["good", "bad"]
        and report.loc["empty answer", "first places"] == "row 3"
    )


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
    found, table, _ = read(write(tmp_path / "a.parquet", parquet(rows)))
    assert found == shape and table["question"].tolist() == QUESTIONS
    assert table["answer"].tolist() == [row["answer"] for row in ROWS]


def test_a_hub_dataset_that_cannot_be_had_is_said(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        sources.DataError, match="nobody/nothing is no file here and could not be had from the Hub"
    ):
        sources.load("nobody/nothing")


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
    said = " ".join(tables.remarks(rows, sorted(set(rows["answer"]))))
    assert "1 questions have more than one answer, for example rows u, v" in said
    assert "['Yes', 'yes', 'yes ']" in said and "Too rare" in said
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


def test_files_beside_the_data_are_passed_over_and_class_folders_get_a_hint(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\nq,a\n")
    for name in ("dataset_info.json", "README.md", "LICENSE"):
        (tmp_path / name).write_text("{}")
    source = sources.load(tmp_path)
    assert [path.name for path, _ in source.files] == ["a.csv"]
    assert source.passed_over == ["LICENSE", "README.md", "dataset_info.json"]
    (tmp_path / "classes" / "spam").mkdir(parents=True)
    (tmp_path / "classes" / "spam" / "1.txt").write_text("hi")
    with pytest.raises(sources.DataError, match="One folder a class") as caught:
        sources.load(tmp_path / "classes")
    line = str(caught.value).partition("writes the CSV: ")[2]
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path / "classes", check=True)
    assert (tmp_path / "classes" / "all.csv").read_text() == "text,label\nhi,spam\n"


def test_every_dropped_chat_says_what_was_found(tmp_path):
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
    for said, turns in dropped.items():
        records = [{"messages": turns}, *SHAPES["messages"]]
        for path in (
            write(tmp_path / "a.jsonl", lines(records)),
            write(tmp_path / "a.json", json.dumps(records)),
        ):
            _, rows, report = read(path)
            assert len(rows) == len(ROWS) and any(
                f"1 ({said})" in place for place in report["first places"]
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
    assert ["'c'" in said for said in tables.remarks(rows, ["a", "b", "c"])] == [True]
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


def test_parquet_keeps_the_names_of_its_labels(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = datasets.Dataset.from_dict(
        {"text": ["x", "y", "z", "w"], "label": [1, 0, -1, None]}, features=features
    )
    made.to_parquet(tmp_path / "a.parquet")
    _, rows, report = read(tmp_path / "a.parquet")
    assert rows["answer"].tolist() == ["good", "bad"] and report.loc["empty answer", "rows"] == 2


def test_links_that_lead_nowhere_and_files_that_may_not_be_read_are_said(tmp_path, monkeypatch):
    write(tmp_path / "folder" / "a.csv", GOOD)
    (tmp_path / "folder" / "b.csv").symlink_to(tmp_path / "gone.csv")
    assert sources.load(tmp_path / "folder").passed_over == ["b.csv"]
    with pytest.raises(
        sources.DataError, match="b.csv is a link to .*gone.csv, which is not there"
    ):
        sources.load(tmp_path / "folder" / "b.csv")

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.fsspec, "open", refused)
    with pytest.raises(sources.DataError, match="a.csv may not be read by you"):
        sources.load(tmp_path / "folder" / "a.csv")


def test_hidden_folders_are_passed_over(tmp_path):
    write(tmp_path / "all" / "mine.csv", GOOD)
    write(tmp_path / "all" / ".ipynb_checkpoints" / "mine-checkpoint.csv", GOOD.replace("ab", "ba"))
    assert [path.name for path, _ in sources.load(tmp_path / "all").files] == ["mine.csv"]


def test_lines_of_blanks_do_not_shift_line_numbers(tmp_path):
    path = write(tmp_path / "mine.csv", "\n" + GOOD.replace("\n", "\n \n", 2) + "   \n,\n\nlast,\n")
    report, text = read(path)[2].to_string(), path.read_text().split("\n")
    assert (
        f"line {text.index(',') + 1}" in report and f"line {text.index('last,') + 1}" in report
    ), report


@pytest.mark.parametrize(
    "ids", [[None, *"abcdefghijk"], ["\ud800", *"abcdefghijk"], [[1], *"abcdefghijk"]]
)
def test_ids_that_cannot_name_rows_are_replaced(tmp_path, ids):
    path = write(
        tmp_path / "mine.jsonl",
        lines([{"id": name, **row} for name, row in zip(ids, ROWS, strict=True)]),
    )
    assert read(path)[1]["id"].tolist() == [f"row{i}" for i in range(1, 13)]


def test_the_last_ending_decides_and_parquet_may_be_compressed(tmp_path):
    assert len(read(write(tmp_path / "old.tsv.csv", GOOD))[1]) == 12
    pd.DataFrame(ROWS).to_parquet(tmp_path / "mine.parquet")
    packed = write(
        tmp_path / "packed.parquet.gz", gzip.compress((tmp_path / "mine.parquet").read_bytes())
    )
    assert len(read(packed)[1]) == 12


def test_a_chat_of_endless_brackets_is_no_chat(tmp_path):
    good = [
        {"messages": json.dumps(chat(("user", q), ("assistant", "ab"[i % 2])))}
        for i, q in enumerate(QUESTIONS)
    ]
    path = write(tmp_path / "mine.jsonl", lines([*good, {"messages": "[" * 100_000}]))
    assert len(read(path)[1]) == 12
