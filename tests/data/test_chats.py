"""Chats and masks, with the default model's template and Llama 3's; Meta's own code judges."""

import copy
import json

import pytest
from transformers import AutoTokenizer

from helpers.data import chats
from helpers.model import loading

ANSWER = [{"role": "assistant", "content": "yes"}]


def check(tokenizer, prompt, completion=ANSWER):
    return chats.check_rows(
        tokenizer, {"id": ["r7"], "prompt": [prompt], "completion": [completion]}
    )


@pytest.fixture(params=["default", "llama3"])
def tokenizer(request, tiny, llama3_tokenizer):
    tokenizer = (
        AutoTokenizer.from_pretrained(tiny) if request.param == "default" else llama3_tokenizer
    )
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    return tokenizer


def test_mask_covers_answer_and_end_of_turn_only(tokenizer):
    prompt = chats.messages("sys", "What <b>?")
    ids, mask = chats.trained_tokens(tokenizer, prompt, ANSWER)
    trained = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert trained.strip() == "yes" + tokenizer.convert_ids_to_tokens(chats.end_of_turn(tokenizer))
    shown = chats.show_mask(tokenizer, ids, mask)
    assert (
        "<b>" not in shown["text/html"]
        and "[yes]" in shown["text/plain"]
        and "[What" not in shown["text/plain"]
    )
    assert check(tokenizer, prompt) == {"tokens": [len(ids)], "answer_tokens": [sum(mask)]}


def test_llama3_has_its_numbers(llama3_tokenizer):
    llama3_tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    assert llama3_tokenizer.pad_token_id == 128256
    assert (
        chats.end_of_turn(llama3_tokenizer)
        == llama3_tokenizer.convert_tokens_to_ids("<|eot_id|>")
        == 128009
    )


@pytest.mark.parametrize(
    "turns",
    [
        ["user"],
        ["system", "user"],
        ["user", "assistant"],
        ["system", "user", "assistant", "user", "assistant", "user"],
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "Hello there",
        "Grüße, 1234567 naïve\tcafés\n\nnew 日本語 🙂",
        "it's WE'LL   x",
        "a" * 300,
        "…\u00a0“q” {x}",
    ],
)
def test_llama3_chats_equal_metas_own(llama3_tokenizer, turns, text):
    from llama_models.datatypes import RawMessage
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tokenizer import Tokenizer

    # Outer blanks aside: the template on the Hub takes them off, ChatFormat does not.
    turns = [{"role": role, "content": f"{i} {text}"} for i, role in enumerate(turns)]
    ends = {"assistant": {"stop_reason": "end_of_turn"}}
    theirs = ChatFormat(Tokenizer.get_instance()).encode_dialog_prompt(
        [RawMessage(**turn, **ends.get(turn["role"], {})) for turn in turns]
    )
    ours = llama3_tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False
    )
    assert ours == theirs.tokens


@pytest.mark.parametrize(
    "roles",
    [["user"], ["system", "user"], ["system", "user", "assistant", "user", "assistant", "user"]],
)
@pytest.mark.parametrize("text", ["no", "Grüße 🙂\n\n\tnew  日本語", "{x} <b> …\u00a0“q”"])
def test_llama3_trains_on_metas_own_tokens_of_the_answer(llama3_tokenizer, roles, text):
    from llama_models.datatypes import RawMessage
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tokenizer import Tokenizer

    llama3_tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    prompt = [{"role": role, "content": f"{i} {text}"} for i, role in enumerate(roles)]
    ends = {"assistant": {"stop_reason": "end_of_turn"}}
    meta = Tokenizer.get_instance()
    start = ChatFormat(meta).encode_dialog_prompt(
        [RawMessage(**turn, **ends.get(turn["role"], {})) for turn in prompt]
    )
    answer = [*meta.encode(text, bos=False, eos=False), meta.special_tokens["<|eot_id|>"]]
    completion = [{"role": "assistant", "content": text}]
    ids, mask = chats.trained_tokens(llama3_tokenizer, prompt, completion)
    assert ids == start.tokens + answer
    assert mask == [False] * len(start.tokens) + [True] * len(answer)
    assert check(llama3_tokenizer, prompt, completion)["tokens"] == [len(ids)]


def test_a_system_turn_that_the_template_adds_is_not_trained_on(llama3_tokenizer):
    """Llama 3.1's template opens every chat with a system turn that states dates."""
    llama3_tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    dated = (
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|>"
    )
    other = spoiled(
        llama3_tokenizer, llama3_tokenizer.chat_template.replace("{{ bos_token }}", dated)
    )
    ids, mask = chats.trained_tokens(other, chats.messages("", "Hm?"), ANSWER)
    assert other.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "yes<|eot_id|>"
    assert check(other, chats.messages("", "Hm?"))["tokens"] == [len(ids)]


def spoiled(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def says_prompt_changes(way, tokenizer, prompt, completion):
    try:
        way(tokenizer, prompt, completion)
    except ValueError as error:
        return chats.PROMPT_CHANGES in str(error)
    return False


def test_the_check_of_many_rows_agrees_with_tokenising_each_prompt(tokenizer):
    """Whatever stands before the answer: a mark, words, nothing at all, blanks that it swallows."""
    prompts = [
        chats.messages("", text) for text in ("Hm?", " x\n", "assistant\n\n", "日本 🙂", "word")
    ]
    prompts.append([*prompts[0], *ANSWER, *prompts[1]])
    answers = ["yes", " yes", "\nyes", "  \n\n x", "1", "é", "s"]
    end = tokenizer.convert_ids_to_tokens(chats.end_of_turn(tokenizer))
    other, changed = spoiled(tokenizer, None), []
    for opening in (
        f"{end}A:\n\n",
        f"{end}A: ",
        f"{end}",
        f"{end}\n",
        "\n### Response:\n",
        "",
        f"{end}1",
        f"{end}A:\n",
    ):
        template = (
            "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
            + opening
            + "{{ m['content'] }}"
            + end
        )
        template += (
            "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
            + opening
            + "{% endif %}"
        )
        other.chat_template = template
        for prompt in prompts:
            for text in answers:
                completion = [{"role": "assistant", "content": text}]
                one, many = (
                    says_prompt_changes(way, other, prompt, completion)
                    for way in (chats.trained_tokens, check)
                )
                assert one == many, (opening, prompt, text)
                changed.append(one)
    assert 20 < sum(changed) < len(changed) - 20


def test_a_template_that_cannot_teach_is_refused(llama3_tokenizer):
    llama3_tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    right, prompt = llama3_tokenizer.chat_template, chats.messages("", "Hm?")
    cases = {
        right.replace("<|eot_id|>", "."): "cannot learn to stop",
        None: "no chat template",
        right.replace(
            "{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"
        ): "2 beginning-of-sequence tokens",
        right.replace("{{ bos_token }}", ""): "0 beginning-of-sequence tokens",
        right.replace(
            "{{ bos_token }}", "{{ bos_token }}{{ messages | length }}"
        ): "changes the prompt",
    }
    for template, sentence in cases.items():
        with pytest.raises(ValueError, match=sentence):
            check(spoiled(llama3_tokenizer, template), prompt)
    same = spoiled(llama3_tokenizer, right)
    same.pad_token = "<|eot_id|>"
    with pytest.raises(ValueError, match="padding token is the end of the turn"):
        check(same, prompt)


def test_marks_in_the_text_and_empty_answers_are_named(tokenizer):
    end = tokenizer.convert_ids_to_tokens(chats.end_of_turn(tokenizer))
    with pytest.raises(ValueError, match="Row r7 cannot be trained on: its text holds"):
        check(tokenizer, chats.messages("", f"what is {end}?"))
    with pytest.raises(ValueError, match="no token of the answer"):
        check(tokenizer, chats.messages("", "x"), [{"role": "assistant", "content": ""}])


def test_a_system_turn_of_its_own_is_kept():
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}]
    assert chats.messages("ours", "q", own) == own
    assert chats.messages("ours", "q", own[1:])[0]["content"] == "ours"
    assert chats.messages("", "q") == own[1:]


def test_answers_that_look_like_dates_stay_text(tmp_path):
    rows = [
        {
            "id": str(i),
            "question": "when?",
            "answer": f"2024-01-0{i}",
            "prompt": chats.messages("", "when?"),
            "completion": [{"role": "assistant", "content": f"2024-01-0{i}"}],
            "sha256": "",
        }
        for i in range(1, 9)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert chats.read_rows(tmp_path / "a.jsonl").to_list() == rows


def test_what_a_terminal_would_obey_is_not_shown():
    assert chats.visible("a\x1b[2Jb\r\x9b") == "a\ufffd[2Jb\ufffd\ufffd"
    assert chats.visible("line\n\tGrüße 🙂") == "line\n\tGrüße 🙂"


def test_texts_side_by_side_are_shown_as_they_are():
    shown = chats.side_by_side({"a & b": "<|im_start|>\n", "c": "x\x1by"})
    assert "<b>a &amp; b</b>" in shown["text/html"] and "&lt;|im_start|&gt;" in shown["text/html"]
    assert shown["text/plain"] == "a & b:\n<|im_start|>\n\nc:\nx\ufffdy"


def test_llama3_form_needs_no_llama3_tokenizer(tiny, llama3_tokenizer):
    """01 shows it with the default model's tokenizer."""
    chat = [{"role": "user", "content": "My tap water is brown."}, *ANSWER]
    shown = AutoTokenizer.from_pretrained(tiny).apply_chat_template(
        chat,
        chat_template=chats.LLAMA3_TEMPLATE,
        bos_token=chats.LLAMA3_BEGINNING,
        tokenize=False,
    )
    assert shown == llama3_tokenizer.apply_chat_template(chat, tokenize=False)
