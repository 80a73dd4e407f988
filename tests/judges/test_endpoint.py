"""A judge at an address, against a server on this machine: the protocol, what goes wrong, and what is never sent."""

import json

import numpy as np
import pytest
from absl import logging

from latent_audit.data.judge_self_test import PAIRS
from latent_audit.errors import InputError
from latent_audit.judges import endpoint, self_test
from latent_audit.judges.endpoint import Endpoint
from tests.support.judge_server import completion, serving

KEY = "sk-not-to-be-seen"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUDGE_KEY", KEY)


def judged(server, prompts, responses, *, form="auto", waits=None, **changes):
    made = Endpoint(server.url, "stub", **({"timeout": 10.0, "together": 2} | changes))
    waited = [] if waits is None else waits
    return endpoint.make_judge(made, form, wait=waited.append).judge(prompts, responses)


def by_content(body, number):
    """Yes to answers that begin with First, no to others, and something else to those without words."""
    answer = json.loads(body["messages"][1]["content"])["answer"]
    return "Yes." if answer.startswith("First") else "I would rather not say" if not answer else " no"


def test_it_speaks_the_protocol_in_order_and_counts_what_it_cannot_read():
    with serving(by_content) as server:
        said = judged(server, ["p", "q", "r{}"], ["First ...", "I cannot", ""], key_variable="JUDGE_KEY")
    np.testing.assert_array_equal(said, [1, 0, np.nan])
    assert len(server.asked) == 3 and {path for path, _ in server.asked} == {"/v1/chat/completions"}
    body = server.asked[0][1]
    assert body["model"] == "stub" and body["temperature"] == 0 and body["max_tokens"] == endpoint.NEW_TOKENS
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert all(headers["Content-Type"] == "application/json" for headers in server.headers)


def test_without_a_variable_no_key_is_sent_and_a_guard_is_asked_by_turns():
    with serving(lambda body, number: "unsafe\nS2" if "lock" in body["messages"][1]["content"] else "safe") as server:
        said = judged(server, ["p", "p"], ["the lock", "no"], form="llama-guard")
    assert said.tolist() == [1, 0] and "Authorization" not in server.headers[0]
    assert server.asked[0][1]["messages"] in (
        [{"role": "user", "content": "p"}, {"role": "assistant", "content": text}] for text in ("the lock", "no")
    )


@pytest.mark.parametrize("reply, word", [("Yes", 1), ("**no**, it", 0), ("yesterday", np.nan), ("maybe", np.nan)])
def test_the_first_word_is_read(reply, word):
    np.testing.assert_equal(endpoint.read_word(reply), float(word))


def test_no_text_is_an_unparsed_reply():
    with serving(lambda body, number: completion(None)) as server:
        assert np.isnan(judged(server, ["p"], ["r"])).all()


@pytest.mark.parametrize(
    "status, headers, pauses",
    [(429, {"Retry-After": "7"}, [7.0, 7.0]), (500, {}, [1.0, 2.0]), (503, {"Retry-After": "soon"}, [1.0, 2.0])],
)
def test_what_may_pass_is_asked_again_as_late_as_the_server_wants(status, headers, pauses):
    waits = []
    with serving(lambda body, number: (status, headers, b"busy", 0) if number < 2 else "no") as server:
        assert judged(server, ["p"], ["r"], waits=waits).tolist() == [0]
    assert waits == pauses and len(server.asked) == 3
    assert endpoint._asked_pause({"Retry-After": "1e9"}, 1.0) == endpoint.LONGEST_WAIT


def test_a_server_that_stays_busy_ends_in_one_line_after_so_many_tries():
    waits = []
    with serving(lambda body, number: (500, {}, f"trouble with {KEY}".encode(), 0)) as server:
        with pytest.raises(InputError, match="asked 5 times, the last time: status 500") as caught:
            judged(server, ["p"], ["r"], waits=waits, key_variable="JUDGE_KEY")
    assert len(server.asked) == endpoint.TRIES and waits == [1.0, 2.0, 4.0, 8.0]
    assert KEY not in str(caught.value) and str(caught.value).isprintable()


def test_one_that_does_not_answer_in_time_or_is_not_there():
    with serving(lambda body, number: (200, {}, b"", 0.5)) as server:
        with pytest.raises(InputError, match=r"asked 5 times, the last time: no answer within 0\.05 s"):
            judged(server, ["p"], ["r"], timeout=0.05)
        closed = server.url
    with pytest.raises(InputError, match="asked 5 times, the last time: .*[Cc]onnection refused"):
        endpoint.make_judge(Endpoint(closed, "stub"), "auto", wait=lambda _: None).judge(["p"], ["r"])


@pytest.mark.parametrize(
    "content", [b"<html>hello</html>", b"{}", b'{"choices": []}', b"[1]", b'{"choices": [{"text": 1}]}']
)
def test_another_answer_than_a_completion_is_said_at_once(content):
    with serving(lambda body, number: (200, {}, content, 0)) as server:
        with pytest.raises(InputError, match="answers something else than a chat completion") as caught:
            judged(server, ["p"], ["r"])
    assert len(server.asked) == 1 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "status, message", [(401, "refuses access .status 401.; the key: JUDGE_KEY"), (404, "answers with status 404 for")]
)
def test_refusals_are_not_asked_again(status, message):
    with serving(lambda body, number: (status, {}, KEY.encode(), 0)) as server:
        with pytest.raises(InputError, match=message) as caught:
            judged(server, ["p"], ["r"], key_variable="JUDGE_KEY")
    assert len(server.asked) == 1 and KEY not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_refused_and_the_key_goes_nowhere(status):
    with serving(lambda body, number: "no") as other:
        location = {"Location": f"{other.url}/chat/completions"}
        with serving(lambda body, number: (status, location, b"", 0)) as server:
            with pytest.raises(InputError, match="redirects to '127.0.0.1:[0-9]+', which was not named"):
                judged(server, ["p"], ["r"], key_variable="JUDGE_KEY")
    assert len(server.asked) == 1 and not other.asked


def test_the_key_is_in_no_name_no_record_and_no_log(monkeypatch):
    logged = []
    for level in ("log", "info", "warning", "error"):
        monkeypatch.setattr(logging, level, lambda *args, **_: logged.append(str(args)))
    monkeypatch.setattr(logging, "log_every_n_seconds", lambda *args, **_: logged.append(str(args)))
    with serving(lambda body, number: (500, {}, KEY.encode(), 0) if number == 0 else "no") as server:
        made = Endpoint(server.url, "stub", "JUDGE_KEY")
        judge = endpoint.make_judge(made, "auto", wait=lambda _: None)
        judge.judge(["p"], ["r"])
    assert logged and KEY not in f"{logged}{judge.name}{dict(judge.record)}{made}"
    assert judge.name.startswith("stub at 127.0.0.1:") and judge.is_model


@pytest.mark.parametrize(
    "changes, form, message",
    [
        ({"url": ""}, "auto", "judge.url is empty"),
        ({"model": " "}, "auto", "judge.model is empty"),
        ({"url": "ftp://host/v1"}, "auto", "expected http://HOST"),
        ({"url": "https://host:99999/v1"}, "auto", "is no address"),
        ({"url": "https://me:secret@host/v1"}, "auto", "holds a user, a password or a query"),
        ({"url": "https://host/v1?key=secret"}, "auto", "holds a user, a password or a query"),
        ({"key_variable": "sk-the-key"}, "auto", "is no name of an environment variable"),
        ({"key_variable": "NOT_SET"}, "auto", "names NOT_SET, which is not set"),
        ({"url": "http://host/v1", "key_variable": "JUDGE_KEY"}, "auto", "would send the key unencrypted"),
        ({}, "wildguard", "an endpoint is asked in one of auto, llama-guard"),
    ],
)
def test_what_is_not_named_or_cannot_be_used_is_refused_before_anything_is_asked(changes, form, message):
    made = Endpoint(**({"url": "https://host/v1", "model": "stub"} | changes))
    with pytest.raises(InputError, match=message) as caught:
        endpoint.make_judge(made, form)
    assert "secret" not in str(caught.value) and "sk-the-key" not in str(caught.value)


def test_the_self_test_of_an_endpoint_passes_with_one_error_and_fails_with_two():
    done = {pair.done for pair in PAIRS}

    def with_errors(count):
        def answer(body, number):
            text = json.loads(body["messages"][1]["content"])["answer"]
            wrong = text in [pair.refused for pair in PAIRS][:count]
            return "yes" if (text in done) != wrong else "no"

        with serving(answer) as server:
            judge = endpoint.make_judge(Endpoint(server.url, "stub"), "auto", wait=lambda _: None)
            found = self_test.run(judge)
        return judge, found

    judge, found = with_errors(1)
    assert found == {"asked": 16, "right": 15, "missed": 0, "false_alarms": 1, "unparsed": 0}
    self_test.check(judge, found)
    judge, found = with_errors(2)
    with pytest.raises(InputError, match="14 of 16 obvious pairs right, expected at least 15") as caught:
        self_test.check(judge, found)
    assert str(caught.value).isprintable()
