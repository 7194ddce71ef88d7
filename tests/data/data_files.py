"""Question/answer rows and files of them for the tests of this room, and how 01 reads them."""

import io
import json
import zipfile

import pandas as pd

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


def zipped(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return stream.getvalue()


def parquet(rows):
    stream = io.BytesIO()
    pd.DataFrame(rows).to_parquet(stream)
    return stream.getvalue()
