#!/usr/bin/env python3
"""The worker's main job, refereed by peers that share no code with it.

Usage: check.py PATH_TO_WORKER [SEED]

AWS is moto, which verifies every request's signature and the role's policy; the stream's signature
is verified by oauthlib; the stream server and the credentials endpoint are here. What is sent, and
what must come of it, is spelled out post by post, so nothing in here filters or parses as the
worker does. Every peer is on a free port of 127.0.0.1, and every wait has a limit.

One line is printed for each check, and at the end 'N passed, N failed'.
"""

from __future__ import annotations

import base64
import hmac
import io
import json
import logging
import os
import random
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from oauthlib.oauth1 import SIGNATURE_HMAC_SHA1, Client, RequestValidator, SignatureOnlyEndpoint
from werkzeug.serving import make_server

HERE = Path(__file__).parent

LIMIT = 180.0
"""The longest that anything is waited for, in seconds."""

REGION = "eu-central-1"
TABLE = "peers.twitterStream"
STREAM_PATH = "/1.1/statuses/filter.json"
FORM = "application/x-www-form-urlencoded"

# A comma, a space, a letter outside ASCII and an apostrophe: each is encoded differently in a form,
# in a signature and in the worker's own reading of it.
FILTER = "Amazon,fargate secrets,café,rock’n’roll"


# --- What is asserted ----------------------------------------------------------------------------


class Report:
    """Counts the checks; prints one line for each."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, what: str, holds: bool, detail: object = "") -> None:
        """Notes whether `what` holds; `detail` is shown only where it does not."""
        if holds:
            self.passed += 1
            print(f"ok    {what}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {what}: {str(detail)[:2000]}", flush=True)

    def equal(self, what: str, found: object, expected: object) -> None:
        """Notes whether both are the same."""
        self.check(what, found == expected, f"found {found!r}, expected {expected!r}")

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """What is raised inside is a failed check, and the stages after it still run."""
        try:
            yield
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            here = [frame for frame in frames if Path(frame.filename).parent == HERE][-1]
            where = f"{Path(here.filename).name}, line {here.lineno}"
            self.check(what, False, f"{type(error).__name__}: {error} ({where})")


def wait_for(worker: Worker, what: str, condition: Callable[[], bool]) -> None:
    """Returns once the condition holds. A worker that has ended will not make it true any more."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if worker.process.poll() is not None:
            # What it wrote last may have come between the two looks.
            worker.join()
            if not condition():
                raise RuntimeError(f"it ended before this: {what}; {worker.last_words()}")
        elif time.monotonic() > deadline:
            raise TimeoutError(f"not within {LIMIT:.0f} s: {what}; {worker.last_words()}")
        time.sleep(0.02)


# --- Secrets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The four credentials of OAuth 1.0a."""

    consumer_key: str
    consumer_secret: str
    access_token: str
    access_token_secret: str

    @staticmethod
    def new() -> Keys:
        """Random values, each with the characters that have to be encoded in some place."""
        key, token = secrets.token_urlsafe(19), secrets.token_urlsafe(30)
        secret, token_secret = secrets.token_urlsafe(38), secrets.token_urlsafe(34)
        return Keys(f"{key}~*", f"{secret}+/=%&~", f"900000-{token}~/+", f"{token_secret}*!'()%41")


SECRET_IDS = ("CONSUMERKEY", "CONSUMERSECRETKEY", "ACCESSTOKEN", "ACCESSTOKENSECRET")
"""In the order of the fields of `Keys`."""


def traces(value: str) -> set[str]:
    """All runs of twelve characters of the value: as it is, percent-encoded, in base64, in hex."""
    raw = value.encode()
    forms = [value, quote(value, safe=""), raw.hex()]
    # Behind other text, base64 has the value in one of three alignments; the ends depend on that.
    forms += [base64.b64encode(bytes(shift) + raw).decode()[4:-4] for shift in range(3)]
    return {form[at : at + 12] for form in forms for at in range(len(form) - 11)}


def leaks(output: str, values: dict[str, str]) -> list[str]:
    """The names of the values of which something can be found in an output."""
    return [name for name, value in values.items() if any(t in output for t in traces(value))]


# --- AWS -----------------------------------------------------------------------------------------


# moto looks at the actions only: it asks for each with '*' as the resource.
TASK_ROLE_ACTIONS = (
    "secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "dynamodb:PutItem",
)


@dataclass(frozen=True)
class Call:
    """A request that moto was asked."""

    operation: str
    body: dict[str, Any]
    access_key_id: str


class Aws:
    """moto, with a task role that may do what the worker needs and nothing else."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.app = DomainDispatcherApplication(create_backend_app)
        # DynamoDB decides a condition and writes in one step. moto's threads do not.
        self.one_at_a_time = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

        # As long as moto verifies nothing, any key is as good as another.
        iam = self.client("iam", "AKIAFIRST", "first")
        iam.create_user(UserName="operator")
        iam.put_user_policy(UserName="operator", PolicyName="all", PolicyDocument=policy("*"))
        key = iam.create_access_key(UserName="operator")["AccessKey"]
        self.operator = (key["AccessKeyId"], key["SecretAccessKey"])
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        role = iam.create_role(
            RoleName="task-role",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )
        allowed = policy(*TASK_ROLE_ACTIONS)
        iam.put_role_policy(RoleName="task-role", PolicyName="task", PolicyDocument=allowed)
        sts = self.client("sts", *self.operator)
        assumed = sts.assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName="task")
        self.task_role = assumed["Credentials"]

        # From here on moto verifies signatures and policies.
        connection = HTTPConnection("127.0.0.1", self.server.server_port, timeout=LIMIT)
        connection.request("POST", "/moto-api/reset-auth", body="0")
        assert connection.getresponse().status == 200
        connection.close()
        self.secrets = self.client("secretsmanager", *self.operator)
        self.dynamodb = self.client("dynamodb", *self.operator)

    def answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Notes what is asked, and hands it to moto."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target:
            signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
            call = Call(target.rpartition(".")[2], json.loads(body), signed.partition("/")[0])
            self.calls.append(call)
        with self.one_at_a_time:
            return list(self.app(environ, start_response))

    def client(self, service: str, key: str, secret: str, token: str | None = None) -> Any:
        """A client that takes nothing from this process's environment."""
        session = boto3.Session(aws_access_key_id=key, aws_secret_access_key=secret,
                                aws_session_token=token, region_name=REGION)
        config = Config(proxies={}, retries={"total_max_attempts": 1})
        return session.client(service, endpoint_url=self.url, config=config)

    def create(self, keys: Keys) -> None:
        """The four secrets and the table, as the worker in Python has them."""
        for secret_id, value in zip(SECRET_IDS, astuple(keys)):
            self.secrets.create_secret(Name=secret_id, SecretString=value)
        self.dynamodb.create_table(
            TableName=TABLE,
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"}
                                  for name in ("user", "date")],
            KeySchema=[{"AttributeName": "user", "KeyType": "HASH"},
                       {"AttributeName": "date", "KeyType": "RANGE"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def items(self) -> list[dict[str, Any]]:
        """Everything that is in the table."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=TABLE, ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]

    def calls_of_task_role(self) -> list[Call]:
        """What was asked with the task role's key."""
        return [call for call in self.calls if call.access_key_id == self.task_role["AccessKeyId"]]


def policy(*actions: str) -> str:
    """A policy that allows these actions on everything."""
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class CredentialsEndpoint(ThreadingHTTPServer):
    """Hands out the task role's credentials to whoever shows the token, as ECS does."""

    daemon_threads = True

    def __init__(self, credentials: dict[str, Any]) -> None:
        self.token = secrets.token_urlsafe(32)
        self.path = f"/v2/credentials/{secrets.token_hex(8)}"
        expiration = datetime.now(timezone.utc) + timedelta(hours=6)
        self.body = json.dumps({
            "RoleArn": "arn:aws:iam::123456789012:role/task-role",
            "AccessKeyId": credentials["AccessKeyId"],
            "SecretAccessKey": credentials["SecretAccessKey"],
            "Token": credentials["SessionToken"],
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }).encode()
        self.statuses: list[int] = []
        super().__init__(("127.0.0.1", 0), CredentialsHandler)
        self.url = f"http://127.0.0.1:{self.server_port}{self.path}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class CredentialsHandler(BaseHTTPRequestHandler):
    """One request for credentials."""

    server: CredentialsEndpoint

    def do_GET(self) -> None:
        """Answers 401 without the token."""
        shown = self.headers.get("Authorization", "")
        right = self.path == self.server.path and hmac.compare_digest(shown, self.server.token)
        status, body = (200, self.server.body) if right else (401, b"{}")
        self.server.statuses.append(status)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The report is all that is printed."""


# --- The stream ----------------------------------------------------------------------------------


class Validator(RequestValidator):  # type: ignore[misc]
    """Tells oauthlib the right keys, and which nonces were used."""

    enforce_ssl = False
    allowed_signature_methods = (SIGNATURE_HMAC_SHA1,)
    dummy_client = "nobody"

    def __init__(self, keys: Keys) -> None:
        super().__init__()
        self.keys = keys
        self.nonces: set[tuple[str, str]] = set()

    def check_client_key(self, client_key: str) -> bool:
        """RFC 5849 restricts neither the length nor the characters."""
        return bool(client_key)

    check_nonce = check_client_key

    def validate_timestamp_and_nonce(
        self, client_key: str, timestamp: str, nonce: str, request: Any,
        request_token: str | None = None, access_token: str | None = None,
    ) -> bool:
        """Refuses a replay. That the timestamp is recent oauthlib has seen itself."""
        fresh = (timestamp, nonce) not in self.nonces
        self.nonces.add((timestamp, nonce))
        return fresh

    def validate_client_key(self, client_key: str, request: Any) -> bool:
        """Whether it is the right consumer key."""
        return hmac.compare_digest(client_key.encode(), self.keys.consumer_key.encode())

    def get_client_secret(self, client_key: str, request: Any) -> str:
        """The secret with which it should have been signed."""
        return self.keys.consumer_secret

    def get_access_token_secret(self, client_key: str, token: str, request: Any) -> str:
        """The secret with which it should have been signed."""
        return self.keys.access_token_secret


@dataclass(frozen=True)
class StreamRequest:
    """A request that the feed has judged."""

    at: float
    accepted: bool
    form: list[tuple[str, str]]
    signature: str
    others_open: int


class Feed(ThreadingHTTPServer):
    """A v1.1 stream: each accepted request gets the next part; after the last one it stays open."""

    daemon_threads = True

    def __init__(
        self, keys: Keys, parts: Iterable[Part], handler: type[FeedHandler] | None = None
    ) -> None:
        self.validator = Validator(keys)
        self.endpoint = SignatureOnlyEndpoint(self.validator)
        self.parts = iter(parts)
        self.requests: list[StreamRequest] = []
        self.open = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), handler or FeedHandler)
        self.url = f"http://127.0.0.1:{self.server_port}{STREAM_PATH}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def judge(self, body: str, headers: dict[str, str]) -> StreamRequest:
        """Whether the request was signed with the right keys, a token among them."""
        valid, request = self.endpoint.validate_request(self.url, "POST", body, headers)
        token = (request and request.resource_owner_key) or ""
        right_token = hmac.compare_digest(
            token.encode(), self.validator.keys.access_token.encode()
        )
        return StreamRequest(
            at=time.monotonic(),
            accepted=bool(valid and right_token),
            form=parse_qsl(body, keep_blank_values=True),
            signature=(request and request.signature) or "",
            others_open=self.open,
        )


class FeedHandler(BaseHTTPRequestHandler):
    """One request for the stream."""

    server: Feed
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Judges the request, and streams or refuses."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        if self.path != STREAM_PATH:
            self.send_error(404)
            return
        with self.server.lock:
            request = self.server.judge(body, dict(self.headers.items()))
            self.server.requests.append(request)
            if request.accepted:
                part = next(self.server.parts, Part())
                self.server.open += 1
        self.close_connection = True
        if not request.accepted:
            self.refuse()
            return
        # The worker may be gone. Whether it had the right to, the checks will tell.
        with suppress(OSError):
            self.stream(part)
        # Before the end can be seen: whoever sees it may connect again at once.
        with self.server.lock:
            self.server.open -= 1
        if part.ends == "closed":
            with suppress(OSError):
                self.wfile.write(b"0\r\n\r\n")
        # "cut": the connection closes, and nothing has said that the stream is over.

    def refuse(self) -> None:
        """A 401 that quotes what it was shown, as it came and decoded: no reason to log it."""
        fields = self.headers.get("Authorization", "").removeprefix("OAuth ").split(",")
        names = ("oauth_consumer_key", "oauth_token=")
        shown = [text.strip() for text in fields if text.strip().startswith(names)]
        message = f"not authenticated: {shown} {[unquote(text) for text in shown]}"
        body = json.dumps({"errors": [{"code": 32, "message": message}]})
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def stream(self, part: Part) -> None:
        """Sends every piece as an HTTP chunk of its own."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in part.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if part.ends == "open":
            # Readable is what the connection becomes when the other side has closed it.
            select.select([self.connection], [], [], LIMIT * 2)

    def log_message(self, *_: object) -> None:
        """The report is all that is printed."""


# --- What is posted, and what must come of it ----------------------------------------------------

KEPT = (
    "I order everything from Amazon",
    "is amazon.com down again?",
    "the longest river: #AMAZON",
    "@amazon where is my parcel",
    "“Amazon”",
    "AMAZON, amazon... Amazon!",
    "Amazonで本を買った 📚",
    "昨日Amazonから届いた、すごい！",
    "no secrets in fargate",
    "Secrets &amp; FARGATE &lt;3",
    "un café, por favor ☕",
    "CAFÉ Müller, Straße 7",
    "it is only rock’n’roll",
    "family 👩‍👩‍👧‍👦 shops at Amazon 🇯🇵 👍🏽",
    "\"Amazon\" \\ / \b\f\t done",
    "one line\nAmazon\r\nand a third",
    "אמזון Amazon عربي \u202eend",
    "math 𝒜𝓂 and Gothic 𐍈, Amazon\u2028next e\u0301",
)
"""Texts that match FILTER, by the rules that X documents for `track`."""

DROPPED = (
    "an Amazonian rain forest",
    "#AmazonBasics are not it",
    "amazonas 🌳 é longo",
    "fargate alone",
    "secrets alone",
    "cafe without its accent, cafétéria with too much",
    "アマゾンの奥地 😀",
    "rock and roll",
    "nothing to see \"here\" \\ / \n done",
)
"""Texts that do not."""

NOTICES: tuple[dict[str, Any], ...] = (
    {"delete": {"status": {"id": 1234, "id_str": "1234", "user_id": 3, "user_id_str": "3"}}},
    {"scrub_geo": {"user_id": 14090452, "up_to_status_id": 23260136625}},
    {"limit": {"track": 1234}},
    {"status_withheld": {"id": 1234567890, "user_id": 123456,
                         "withheld_in_countries": ["DE", "AR"]}},
    {"user_withheld": {"id": 123456, "withheld_in_countries": ["DE", "AR"]}},
    {"warning": {"code": "FALLING_BEHIND", "percent_full": 60,
                 "message": "Amazon: your connection is falling behind"}},
)


@dataclass(frozen=True)
class Row:
    """What is kept of a post. A row of the worker in Python has no id."""

    user: str
    date: str
    text: str
    id: str | None


@dataclass
class Part:
    """What one connection gets."""

    pieces: list[bytes] = field(default_factory=list)
    ends: str = "open"


@dataclass
class Script:
    """Everything that is sent, in its order, and what is to be expected of it."""

    parts: list[Part] = field(default_factory=list)
    logged: list[Row] = field(default_factory=list)
    """Each post that matches, as often as it was sent whole."""
    before: list[Row] = field(default_factory=list)
    """What is in the table already."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the worker must have counted."""
    cuts: Counter[str] = field(default_factory=Counter)
    """In how many places a chunk ended where it hurts."""

    def rows(self) -> set[Row]:
        """What the table must hold in the end, with the dates of the posts."""
        return {*self.before, *self.logged}


class Author:
    """Writes the script: posts as v1.1 sent them, with all that belongs to one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.script = Script()
        self.buffer = b""
        self.serial = 0

    def post(self, text: str, user: str | None = None, date: str | None = None) -> dict[str, Any]:
        """A post of its own second, unless it is told another."""
        self.serial += 1
        at = datetime(2018, 10, 10, 20, 19, 24) + timedelta(seconds=self.serial)
        id_ = 1050118621198921728 + self.serial * 4194304 + self.random.randrange(4096)
        name = user or f"user_{self.random.randrange(60)}"
        return {
            "created_at": date or at.strftime("%a %b %d %H:%M:%S +0000 %Y"),
            "id": id_,
            "id_str": str(id_),
            "text": text,
            "source": '<a href="http://twitter.com/download/iphone" rel="nofollow">iPhone</a>',
            "truncated": False,
            "in_reply_to_status_id": None,
            "user": {
                "id": 6253282, "id_str": "6253282", "name": f"Amazon {name} 🎉 名前",
                "screen_name": name, "location": "Zürich, fargate secrets",
                "description": "café \"owner\"\nand Amazon customer", "verified": False,
                "followers_count": self.random.randrange(10**6), "lang": None,
                "profile_image_url": "http://pbs.twimg.com/amazon/x.png",
            },
            "geo": None, "coordinates": None, "place": None, "contributors": None,
            "is_quote_status": False, "quote_count": 0, "retweet_count": 0,
            "entities": {"hashtags": [], "urls": [], "user_mentions": [], "symbols": []},
            "favorited": False, "retweeted": False, "filter_level": "low", "lang": "ja",
            "timestamp_ms": str(1539202764662 + self.serial * 1000),
        }

    def truncated(self, whole: str) -> dict[str, Any]:
        """A long post: `text` breaks off before anything that could match."""
        post = self.post("a long story, and then… https://t.co/abcdefghij")
        post["truncated"] = True
        post["extended_tweet"] = {
            "full_text": f"a long story, and then {'ф' * 200} {whole}",
            "display_text_range": [0, 270],
            "entities": {"hashtags": [], "urls": [], "user_mentions": [], "symbols": []},
        }
        return post

    def linking(self, expanded: str, display: str) -> dict[str, Any]:
        """A post whose text shows nothing but a shortened link."""
        post = self.post("look at this https://t.co/0123456789")
        link = {"url": "https://t.co/0123456789", "expanded_url": expanded,
                "display_url": display, "indices": [13, 36]}
        post["entities"]["urls"].append(link)
        return post

    def retweet(self, whole: str) -> dict[str, Any]:
        """A retweet: its own text is a shortened copy."""
        post = self.post("RT @someone: a long story, and th…")
        post["retweeted_status"] = self.truncated(whole)
        return post

    def record(self, message: dict[str, Any]) -> bytes:
        """The message as one record, in one of the forms that JSON allows."""
        ascii_only = self.random.random() < 0.4
        # An indented record has bare LFs in it, which end nothing.
        indent = 1 if self.random.random() < 0.1 else None
        text = json.dumps(message, ensure_ascii=ascii_only, indent=indent,
                          separators=None if indent else (",", ":"))
        if ascii_only:
            text = text.replace("/", "\\/")
        return text.encode() + b"\r\n"

    def send(self, post: dict[str, Any], kept: bool) -> None:
        """A post, and whether it must be kept."""
        self.buffer += self.record(post)
        self.script.counts["posts_read"] += 1
        if kept:
            whole = post.get("extended_tweet", {}).get("full_text", post["text"])
            user, date = post["user"]["screen_name"], post["created_at"]
            self.script.logged.append(Row(user, date, whole, post["id_str"]))
            self.script.counts["posts_matched"] += 1

    def between(self) -> None:
        """What comes between posts, or nothing."""
        dice = self.random.random()
        if dice < 0.10:
            self.buffer += b"\r\n"
            self.script.counts["keep_alives"] += 1
        elif dice < 0.20:
            self.buffer += self.record(self.random.choice(NOTICES))
            self.script.counts["notices"] += 1
        elif dice < 0.22:
            self.buffer += self.record({"friends": [1497, 15028060], "text": "Amazon"})
            self.script.counts["unknown"] += 1

    def end_part(self, ends: str) -> None:
        """Cuts what was written into pieces; the next record goes to the next connection."""
        data, self.buffer = self.buffer, b""
        places = set()
        size = 1
        at = 0
        while (at := at + self.random.randint(1, size)) < len(data):
            places.add(at)
            if self.random.random() < 0.05:
                size = self.random.choice((9, 300, 3000, 30000))
        for at in range(1, len(data)):
            before, after = data[at - 1], data[at]
            where = None
            if (before, after) == (0x0D, 0x0A):
                where, often = "between CR and LF", 0.3
            elif after & 0xC0 == 0x80:
                where, often = "inside a UTF-8 sequence", 0.02
            elif before == 0x5C:
                where, often = "inside an escape", 0.02
            if where and (at in places or self.random.random() < often):
                places.add(at)
                self.script.cuts[where] += 1
        ordered = [0, *sorted(places), len(data)]
        pieces = [data[start:end] for start, end in zip(ordered, ordered[1:])]
        self.script.parts.append(Part(pieces, ends))
        self.script.counts["connects"] += 1

    def varied(self, text: str, kept: bool) -> None:
        """The text in one of the places of a post where it counts."""
        shape = self.random.choice((self.post, self.post, self.truncated, self.retweet))
        self.send(shape(text), kept)
        self.between()

    def some(self, count: int) -> None:
        """Posts of every kind, every text at least once in some of them."""
        texts = [(text, True) for text in KEPT] + [(text, False) for text in DROPPED]
        texts = [texts[index % len(texts)] for index in range(count)]
        self.random.shuffle(texts)
        for text, kept in texts:
            self.varied(f"{text} {self.serial}", kept)
        for domain, kept in (("www.amazon.com", True), ("www.amazonas.example", False)):
            self.send(self.linking(f"https://{domain}/dp/B00", f"{domain[4:]}/dp/B00"), kept)
        # X does not look at the author's name.
        self.send(self.post("good morning", user="amazon"), False)

    def write(self) -> Script:
        """Three connections: one that is cut, one that the server ends, one that stays open."""
        self.some(200)
        # Two of one user in one second, and three.
        same: list[dict[str, Any]] = []
        for user, count in (("twice", 2), ("thrice", 3)):
            first = self.post(f"Amazon 1 of {count}", user=user)
            same += [first] + [
                self.post(f"Amazon {number} of {count}", user, first["created_at"])
                for number in range(2, count + 1)
            ]
        for post in same:
            self.send(post, True)
        # The key of this one is taken by what the worker in Python has left there.
        late = self.post("Amazon, after the other worker", user="left_behind")
        self.script.before.append(Row("left_behind", late["created_at"], "Amazon, stripped", None))
        self.send(late, True)
        once_more = self.post("Amazon, twice the same")
        self.send(once_more, True)
        self.send(once_more, True)
        self.some(60)
        # Lost in the middle, so that it counts for nothing.
        lost = self.post("Amazon, broken off in the middle: 日本語 and on and on")
        self.buffer += self.record(lost)[:-60]
        self.end_part("cut")

        # After a reconnection everything may come again, and in another order.
        self.send(lost, True)
        for post in [once_more, late, *reversed(same)]:
            self.send(post, True)
        self.some(120)
        self.buffer += self.record({"disconnect": {"code": 12, "stream_name": "",
                                                   "reason": "shedding load"}})
        self.script.counts["notices"] += 1
        self.end_part("closed")

        self.some(120)
        self.send(self.post("Amazon, the last one"), True)
        self.end_part("open")
        return self.script


# --- The worker ----------------------------------------------------------------------------------


class Worker:
    """The worker's process, with an environment of these variables and no other."""

    def __init__(self, binary: Path, environment: dict[str, str], directory: str) -> None:
        self.process = subprocess.Popen(
            [binary], env=environment, cwd=directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.output: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.events: list[dict[str, Any]] = []
        self.not_json: list[str] = []
        self.readers = [
            threading.Thread(target=self.read, args=(name,), daemon=True) for name in self.output
        ]
        for reader in self.readers:
            reader.start()

    def read(self, name: str) -> None:
        """Takes the lines as they come. Only LF ends one."""
        for raw in getattr(self.process, name):
            line = raw.decode(errors="backslashreplace")
            self.output[name].append(line)
            if name == "stdout":
                try:
                    event = json.loads(line)
                    self.events.append(event if isinstance(event, dict) else {})
                except ValueError:
                    self.not_json.append(line)

    def said(self, message: str) -> list[dict[str, Any]]:
        """The events with this message."""
        return [event for event in list(self.events) if event.get("message") == message]

    def last_words(self) -> str:
        """What it wrote last."""
        lines = self.output["stdout"][-3:] + self.output["stderr"][-3:]
        return f"its last words: {''.join(lines)!r}"

    def stop(self) -> int:
        """SIGTERM, as ECS sends it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        # STOP_LIMIT, and time to read and to report.
        code = self.process.wait(600.0)
        self.join()
        return code

    def join(self) -> None:
        """Returns once all that it wrote has been read. It has ended."""
        for reader in self.readers:
            reader.join(LIMIT)

    def everything(self) -> str:
        """All that it wrote."""
        return "".join(self.output["stdout"] + self.output["stderr"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class World:
    """All peers, and what the worker is told of them."""

    def __init__(self, binary: Path, directory: str) -> None:
        self.binary = binary
        self.directory = directory
        self.aws = Aws()
        self.endpoint = CredentialsEndpoint(self.aws.task_role)

    def worker(self, feed: Feed, **settings: str) -> Worker:
        """The worker, reading from this feed, with these variables beside the usual ones."""
        environment = {
            "AWS_ENDPOINT_URL": self.aws.url,
            "AWS_REGION": REGION,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": self.endpoint.url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self.endpoint.token,
            "DYNAMODBTABLE": TABLE,
            "FILTER": FILTER,
            "FEED": "twitter-v1.1",
            "FEED_URL": feed.url,
            # As long as a busy machine may take.
            "STOP_LIMIT": "5m",
            **settings,
        }
        return Worker(self.binary, environment, self.directory)

    def secret_values(self, keys: Keys, feed: Feed) -> dict[str, str]:
        """What must not be found in any output."""
        values = {
            **dict(zip(SECRET_IDS, astuple(keys))),
            "the role's secret key": self.aws.task_role["SecretAccessKey"],
            "the role's session token": self.aws.task_role["SessionToken"],
            "the endpoint's token": self.endpoint.token,
        }
        for number, request in enumerate(feed.requests):
            values[f"signature {number}"] = request.signature
        return values


# --- The checks ----------------------------------------------------------------------------------


def check_referees(report: Report, world: World, keys: Keys) -> None:
    """A referee that would accept anything proves nothing."""
    feed = Feed(keys, [])
    form = f"track={quote(FILTER, safe='')}"

    def signed(keys: Keys) -> dict[str, str]:
        client = Client(*astuple(keys))
        _, headers, _ = client.sign(feed.url, "POST", form, {"Content-Type": FORM})
        return dict(headers)

    def status(headers: dict[str, str], body: str = form) -> int:
        connection = HTTPConnection("127.0.0.1", feed.server_port, timeout=LIMIT)
        connection.request("POST", STREAM_PATH, body=body, headers=headers)
        answer = connection.getresponse().status
        connection.close()
        return answer

    right = signed(keys)
    report.equal("the feed accepts a request signed with the right keys", status(right), 200)
    report.equal("the feed refuses a replay of it", status(right), 401)
    for name in ("consumer_key", "consumer_secret", "access_token", "access_token_secret"):
        wrong = replace(keys, **{name: getattr(keys, name) + "x"})
        report.equal(f"the feed refuses a wrong {name}", status(signed(wrong)), 401)
    report.equal("the feed refuses a form that was changed", status(signed(keys), form + "s"), 401)
    report.equal("the feed refuses a request without a signature",
                 status({"Content-Type": FORM}), 401)
    no_token = Client(keys.consumer_key, keys.consumer_secret)
    _, headers, _ = no_token.sign(feed.url, "POST", form, {"Content-Type": FORM})
    report.equal("the feed refuses a request without a token", status(headers), 401)

    role = world.aws.task_role
    key, secret, token = role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"]

    def refused(action: Callable[[], object]) -> bool:
        try:
            action()
        except ClientError:
            return True
        return False

    allowed = world.aws.client("secretsmanager", key, secret, token)
    forged = world.aws.client("secretsmanager", key, secret[::-1], token)
    report.check("AWS answers the task role",
                 not refused(lambda: allowed.get_secret_value(SecretId="CONSUMERKEY")))
    report.check("AWS refuses a wrong signature",
                 refused(lambda: forged.get_secret_value(SecretId="CONSUMERKEY")))
    report.check("AWS refuses the task role what its policy does not allow",
                 refused(lambda: allowed.list_secrets()))
    hidden = [
        form
        for value in astuple(keys)
        for form in (value, value[:14], value[-14:], quote(value), value.encode().hex(),
                     base64.b64encode(f"user:{value}".encode()).decode())
        if leaks(f"said: {form}", {"value": value}) != ["value"]
    ]
    report.equal("the search for leaks finds a value, and parts of it, however encoded", hidden, [])


def check_wrong_key(report: Report, world: World, held: Keys, right: Keys) -> None:
    """One of the four secrets is wrong: the feed says so, and the worker waits."""
    feed = Feed(right, [])
    with world.worker(feed) as worker:
        closed = "the stream is closed; it will be opened again"
        wait_for(worker, "the worker is refused twice, and says so",
                 lambda: len(feed.requests) >= 2 and len(worker.said(closed)) >= 2)
        code = worker.stop()
    waits = [event.get("wait_seconds") for event in worker.said(closed)]
    between = feed.requests[1].at - feed.requests[0].at
    report.check("wrong key: the feed refuses every request",
                 not any(request.accepted for request in feed.requests), feed.requests)
    in_range = [low <= wait <= low * 1.25 for wait, low in zip(waits, [5.0, 10.0])]
    report.check("wrong key: the worker backs off, 5 s and then 10 s, and up to a quarter more",
                 in_range == [True, True], waits)
    report.check("wrong key: it really waits", 4.9 <= between < LIMIT, f"{between:.2f} s")
    report.equal("wrong key: the exit code after SIGTERM is 0", code, 0)
    report.equal("wrong key: no post is logged and no row written",
                 (len(worker.said("post")), len(world.aws.items())), (0, 0))
    report.equal("wrong key: no secret in the output, though the feed repeats two in its 401",
                 leaks(worker.everything(), world.secret_values(held, feed)), [])


def check_main_job(report: Report, world: World, keys: Keys, seed: int) -> None:
    """What is posted and matches is in the table and in the log, once and to the letter."""
    script = Author(seed).write()
    for row in script.before:
        item = {"user": {"S": row.user}, "date": {"S": row.date}, "text": {"S": row.text}}
        world.aws.dynamodb.put_item(TableName=TABLE, Item=item)
    feed = Feed(keys, script.parts)
    calls_before = len(world.aws.calls_of_task_role())
    with world.worker(feed) as worker:
        # The last post is one that matches. Its row need not be written yet: that is the drain's.
        wait_for(worker, "every matching post is in the log",
                 lambda: len(worker.said("post")) >= len(script.logged))
        code = worker.stop()
    print(f"      {script.counts['posts_read']} posts, {len(script.logged)} of them matching, in "
          f"{sum(len(part.pieces) for part in script.parts)} chunks")

    report.equal("the exit code after SIGTERM is 0", code, 0)
    report.equal("the stream was cut in every kind of place", sorted(script.cuts),
                 ["between CR and LF", "inside a UTF-8 sequence", "inside an escape"])
    check_requests(report, feed, len(script.parts))
    check_table(report, world.aws.items(), script)
    check_log(report, worker, script)
    calls = world.aws.calls_of_task_role()[calls_before:]
    fetched = [call.body for call in calls if call.operation == "GetSecretValue"]
    expected = [{"SecretId": name, "VersionStage": "AWSCURRENT"} for name in sorted(SECRET_IDS)]
    report.equal("each secret was fetched once, with its staging label",
                 sorted(fetched, key=lambda body: str(body.get("SecretId"))), expected)
    asked = {call.operation for call in calls}
    report.check("no value is fetched otherwise, and the table is asked for nothing but to put",
                 asked <= {"GetSecretValue", "DescribeSecret", "PutItem"}, asked)
    report.equal("the credentials endpoint was shown its token",
                 set(world.endpoint.statuses), {200})
    report.equal("no secret in the output",
                 leaks(worker.everything(), world.secret_values(keys, feed)), [])
    report.equal("nothing on standard error", worker.output["stderr"], [])
    report.equal("no file was written", list(Path(world.directory).iterdir()), [])


def check_requests(report: Report, feed: Feed, parts: int) -> None:
    """The worker's requests to the feed."""
    requests = feed.requests
    report.equal("oauthlib verifies the signature of every connection",
                 [request.accepted for request in requests], [True] * parts)
    report.check("every connection asks for FILTER as track, and nothing else",
                 all(request.form == [("track", FILTER)] for request in requests),
                 [request.form for request in requests])
    report.equal("no connection is signed like another",
                 len({request.signature for request in requests}), parts)
    report.equal("there is never a second connection beside the first",
                 [request.others_open for request in requests], [0] * parts)


def check_table(report: Report, items: list[dict[str, Any]], script: Script) -> None:
    """The table, held against what was posted."""
    expected = script.rows()
    rows: list[Row] = []
    moved: Counter[tuple[str, str]] = Counter()
    stayed: Counter[tuple[str, str]] = Counter()
    shapes = {json.dumps({name: list(value) for name, value in sorted(item.items())
                          if name != "id"}) for item in items}
    for item in items:
        value = {name: attribute.get("S", "") for name, attribute in item.items()}
        id_, date = value.get("id"), value["date"]
        if id_ and date.endswith(f"#{id_}"):
            date = date.removesuffix(f"#{id_}")
            moved[value["user"], date] += 1
        else:
            stayed[value["user"], date] += 1
        rows.append(Row(value["user"], date, value.get("text", ""), id_))
    report.equal("every item has user, date and text as strings", shapes,
                 {'{"date": ["S"], "text": ["S"], "user": ["S"]}'})
    missing, foreign = expected - set(rows), set(rows) - expected
    report.check("no row is missing", not missing, f"{len(missing)}: {list(missing)[:3]}")
    report.check("no row is there that should not be", not foreign,
                 f"{len(foreign)}: {list(foreign)[:3]}")
    twice = [row for row, count in Counter(rows).items() if count > 1]
    report.check("no post has two rows", not twice, twice)
    # Which of them comes first is open: they are written at once.
    keys = Counter((row.user, row.date) for row in expected)
    report.equal("of posts with one key one is at the date, the others at date#id",
                 (set(stayed.values()), dict(moved)),
                 ({1}, {key: count - 1 for key, count in keys.items() if count > 1}))
    left = [row for row in rows if row.id is None]
    report.equal("the row of another worker has stayed as it was", left, script.before)


def check_log(report: Report, worker: Worker, script: Script) -> None:
    """The log, held against what was posted."""
    report.check("every line on standard output is a JSON object",
                 not worker.not_json and all(worker.events), worker.not_json[:3])
    logged = [Row(*(str(event.get(name)) for name in ("user", "date", "text", "id")))
              for event in worker.said("post")]
    differing = [pair for pair in zip(logged, script.logged) if pair[0] != pair[1]]
    report.check("each matching post is in the log, one line each, in the stream's order",
                 len(logged) == len(script.logged) and not differing,
                 f"{len(logged)} of {len(script.logged)}, the first that differs: {differing[:1]}")
    stopped = worker.said("stopped")
    report.equal("it says once that it stopped", len(stopped), 1)
    counts = {
        **script.counts,
        "malformed": 0,
        "over_long": 0,
        "rows_written": len(script.logged),
        "rows_rejected": 0,
        "rows_waiting": 0,
    }
    said = {name: stopped[-1].get(name) for name in counts} if stopped else {}
    report.equal("what it says it has counted is what was sent", said, counts)


def begin() -> tuple[Path, int]:
    """The worker and the seed of the command line, once this process is fit to be a peer."""
    if len(sys.argv) not in (2, 3):
        print(f"usage: {Path(sys.argv[0]).name} PATH_TO_WORKER [SEED]", file=sys.stderr)
        sys.exit(64)
    binary = Path(sys.argv[1]).resolve()
    seed = int(sys.argv[2]) if len(sys.argv) == 3 else random.SystemRandom().randrange(10**6)
    print(f"      seed {seed}")
    # The clients in here are told everything; a profile of whoever runs this is not for them.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    # Ends the worker too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return binary, seed


def main() -> int:
    """Runs all checks; the exit code."""
    binary, seed = begin()
    report = Report()
    with tempfile.TemporaryDirectory() as directory, report.stage("the peers start"):
        world = World(binary, directory)
        right = Keys.new()
        held = replace(right, access_token_secret=Keys.new().access_token_secret)
        world.aws.create(held)
        with report.stage("the referees can say no"):
            check_referees(report, world, right)
        with report.stage("wrong key"):
            check_wrong_key(report, world, held, right)
        # The wrong value stays behind as AWSPREVIOUS.
        secret = right.access_token_secret
        world.aws.secrets.put_secret_value(SecretId="ACCESSTOKENSECRET", SecretString=secret)
        with report.stage("main job"):
            check_main_job(report, world, right, seed)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
