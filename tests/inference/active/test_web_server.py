"""What the server behind the labelling page refuses, and how its page is kept to itself."""

from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient

from likely.inference.active import Queries
from likely.inference.active.answers_log import AnswersLog
from likely.inference.active.session import LabellingSession
from likely.inference.active.web.desk import Desk
from likely.inference.active.web.rendering import rendered
from likely.inference.active.web.server import application

CLASSES = ("cat", "dog")
WORDS = {"title": "Labelling", "question": "Which <b>?", "kept": "in answers.jsonl"}


@pytest.fixture
def client() -> FlaskClient:
    desk = Desk(CLASSES, lambda item: rendered(item, "text"))
    queries = Queries([0, 1], points=["one text", "another"], classes=CLASSES)
    desk.session = LabellingSession(queries, AnswersLog(None, CLASSES))
    return application(desk, "secret", WORDS).test_client()


def test_the_token_is_needed(client: FlaskClient) -> None:
    assert client.get("/secret/").status_code == 200
    assert client.get("/secret/state").json["phase"] == "asking"  # type: ignore[index]
    body = {"do": "answer", "label": 1, "ticket": 0}
    for wrong in ("/", "/secre/", "/secret2/", "/Secret/", "/secret/other", "/%FF/", "/é/state"):
        assert client.get(wrong).status_code == 404
    assert client.post("/guess/act", json=body).status_code == 404
    assert client.get("/secret/state").json["position"] == 0  # type: ignore[index]


def test_other_hosts_and_origins_are_refused(client: FlaskClient) -> None:
    body = {"do": "answer", "label": 1, "ticket": 0}
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.7"):
        # A name that another site points to this machine (DNS rebinding).
        for reply in (
            client.get("/secret/", headers={"Host": host}),
            client.post("/secret/act", json=body, headers={"Host": host}),
        ):
            assert reply.status_code == 400
    for origin in ("http://evil.example", "null", "https://localhost", "http://localhost:1"):
        reply = client.post("/secret/act", json=body, headers={"Origin": origin})
        assert reply.status_code == 403
    # A form of another site can send text, which is none of the page's.
    assert client.post("/secret/act", data=json.dumps(body)).status_code == 415
    assert client.get("/secret/state").json["position"] == 0  # type: ignore[index]
    own = {"Host": "127.0.0.1:5000", "Origin": "http://127.0.0.1:5000"}
    assert client.post("/secret/act", json=body, headers=own).status_code == 200


def test_the_page_runs_its_own_script_alone(client: FlaskClient) -> None:
    first, second = client.get("/secret/"), client.get("/secret/")
    policy = first.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert policy != second.headers["Content-Security-Policy"], "a nonce is used once"
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert f'<script nonce="{nonce}">' in first.text
    assert "Which &lt;b&gt;?" in first.text
    assert "//" not in first.text.replace("  // ", "").replace("\n// ", ""), "nothing from outside"
    for reply in (first, client.get("/secret/state"), client.get("/guess/")):
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["X-Frame-Options"] == "DENY"


def test_a_long_body_is_refused(client: FlaskClient) -> None:
    assert client.post("/secret/act", json={"do": "x" * 5000}).status_code == 413
