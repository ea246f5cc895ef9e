#!/usr/bin/env python3
"""The worker's keys are rotated while a live feed runs; refereed by the peers of check.py.

Usage: rotation.py PATH_TO_WORKER [SEED]

The feed brings every post to every connection that is open, as v1.1 did, and to none that is not.
A post that it has sent on any connection must be in the table and in the log, once.

One line is printed for each check, and at the end 'N passed, N failed'.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from queue import SimpleQueue

from check import (
    DROPPED, FILTER, KEPT, REGION, SECRET_IDS, Author, Aws, Feed, FeedHandler, Keys, Part, Report,
    Row, StreamRequest, Validator, World, begin, leaks, wait_for,
)
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from oauthlib.oauth1 import SignatureOnlyEndpoint

LOOKS = 5
"""The most looks at all labels between the last one's move and a connection with the new keys: one that is under
way, one that finds them, one that agrees, and two while the connection is opened and noticed here."""

PACE = 0.01
"""From one post to the next, in seconds."""

COMMON = 30
"""How many posts a new connection shares with the oldest before that one is cut."""


# --- The stream ----------------------------------------------------------------------------------


@dataclass
class Connection(Part):
    """A connection that was accepted, and what it was sent."""

    keys: Keys | None = None
    at: float = 0.0
    waiting: SimpleQueue[tuple[bytes, list[Row]] | None] = field(default_factory=SimpleQueue)
    """What is to be sent; `None` is the cut."""
    given: int = 0
    taken: int = 0
    sent: list[Row] = field(default_factory=list)
    """The posts that match, as far as they were sent whole."""
    cut: bool = False
    over: bool = False


class LiveFeed(Feed):
    """A v1.1 account: whoever connects with valid keys gets what is posted from now on."""

    def __init__(self, keys: Keys, seed: int) -> None:
        self.valid: list[tuple[Keys, SignatureOnlyEndpoint]] = []
        self.judged: Keys | None = None
        self.connections: list[Connection] = []
        self.author = Author(seed)
        self.posting = True
        self.accept(keys)
        super().__init__(keys, self.connect(), LiveHandler)
        self.poster = threading.Thread(target=self.post, daemon=True)
        self.poster.start()

    def accept(self, keys: Keys) -> None:
        """These keys are valid from now on, beside the others."""
        self.valid.append((keys, SignatureOnlyEndpoint(Validator(keys))))

    def revoke(self, keys: Keys) -> None:
        """These keys are valid no more, and the streams that they have opened are cut."""
        with self.lock:
            self.valid = [(valid, endpoint) for valid, endpoint in self.valid if valid != keys]
            for connection in self.live():
                if connection.keys == keys:
                    self.end(connection)

    def judge(self, body: str, headers: dict[str, str]) -> StreamRequest:
        """Whether the request was signed with one of the valid sets, and with which."""
        self.judged = None
        for keys, self.endpoint in self.valid:
            self.validator = self.endpoint.request_validator
            request = super().judge(body, headers)
            if request.accepted:
                self.judged = keys
                break
        return request

    def connect(self) -> Iterator[Connection]:
        """What each request gets that is accepted. The lock is held."""
        while True:
            connection = Connection(keys=self.judged, at=time.monotonic())
            self.connections.append(connection)
            yield connection

    def live(self) -> list[Connection]:
        """Those that get what is posted, the oldest first."""
        return [each for each in self.connections if not each.cut and not each.over]

    def end(self, connection: Connection) -> None:
        """Cuts a connection behind what it was given."""
        connection.cut = True
        connection.waiting.put(None)

    def post(self) -> None:
        """Posts, until it is told to stop: three of four match."""
        author = self.author
        next_at = time.monotonic()
        while self.posting:
            kept = author.random.random() < 0.75
            text = author.random.choice(KEPT if kept else DROPPED)
            before = len(author.script.logged)
            author.varied(f"{text} {author.serial}", kept)
            data, author.buffer = author.buffer, b""
            with self.lock:
                for connection in self.live():
                    connection.given += 1
                    connection.waiting.put((data, author.script.logged[before:]))
                live = self.live()
                if len(live) > 1 and live[-1].given >= COMMON:
                    self.end(live[0])
            next_at += PACE
            time.sleep(max(0.0, next_at - time.monotonic()))

    def stop(self) -> None:
        """Nothing is posted any more."""
        self.posting = False
        self.poster.join()

    def drained(self) -> bool:
        """Whether all that was given was sent."""
        return all(each.over or each.taken == each.given for each in self.connections)

    def opened_with(self, keys: Keys, since: float) -> list[Connection]:
        """The connections with these keys from a moment on."""
        return [each for each in self.connections if each.keys == keys and each.at >= since]

    def sent(self) -> set[Row]:
        """Every post that matches and was sent, on whatever connection."""
        return {row for connection in self.connections for row in connection.sent}


class LiveHandler(FeedHandler):
    """One request for the live stream."""

    def stream(self, part: Part) -> None:
        """Sends what is posted, until the connection is cut or the worker is gone."""
        assert isinstance(part, Connection)
        try:
            super().stream(Part(ends="handed over"))
            while (posted := part.waiting.get()) is not None:
                data, rows = posted
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                part.sent += rows
                part.taken += 1
        finally:
            part.over = True


# --- The rotations -------------------------------------------------------------------------------


def put_all(aws: Aws, keys: Keys, pause: float = 0.0) -> float:
    """put-secret-value on all four; when the last label had moved."""
    for secret_id, value in zip(SECRET_IDS, astuple(keys)):
        aws.secrets.put_secret_value(SecretId=secret_id, SecretString=value)
        moved_at = time.monotonic()
        time.sleep(pause)
    return moved_at


def move_all_back(aws: Aws) -> float:
    """AWSCURRENT to the version at AWSPREVIOUS, on all four; when the last label had moved."""
    for secret_id in SECRET_IDS:
        stages = aws.secrets.describe_secret(SecretId=secret_id)["VersionIdsToStages"]
        at = {stage: version for version, labels in stages.items() for stage in labels}
        aws.secrets.update_secret_version_stage(
            SecretId=secret_id, VersionStage="AWSCURRENT",
            MoveToVersionId=at["AWSPREVIOUS"], RemoveFromVersionId=at["AWSCURRENT"],
        )
        moved_at = time.monotonic()
        # moto keeps a version of its own for current, and forgets it here: the next put would
        # leave AWSCURRENT on two versions.
        secret = get_backend("secretsmanager")[DEFAULT_ACCOUNT_ID][REGION].secrets[secret_id]
        secret.set_default_version_id(at["AWSPREVIOUS"])
    return moved_at


class Rotations:
    """One worker and one feed; the keys in use, and those that were."""

    def __init__(self, report: Report, world: World, keys: Keys, seed: int) -> None:
        self.report = report
        self.world = world
        self.keys = [keys]
        self.made = 0
        self.feed = LiveFeed(keys, seed)
        self.worker = world.worker(self.feed, ROTATION_POLL="1s")

    def flow(self, posts: int = 100) -> None:
        """Returns once so many more posts that match are in the log."""
        enough = len(self.worker.said("post")) + posts
        wait_for(self.worker, "posts flow", lambda: len(self.worker.said("post")) >= enough)

    def found(self, name: str, keys: Keys, since: float, moved_at: float) -> Connection:
        """Checks that the labels are where they should be, and how soon the new keys are used."""
        self.made += 1
        looked = self.labels_seen()
        values = [self.world.aws.secrets.get_secret_value(
            SecretId=secret_id, VersionStage="AWSCURRENT")["SecretString"]
            for secret_id in SECRET_IDS]
        # Not `equal`, which would print them.
        self.report.check(f"{name}: AWSCURRENT is at the new values", values == [*astuple(keys)])
        wait_for(self.worker, f"{name}: a connection with the new keys",
                 lambda: bool(self.feed.opened_with(keys, since)))
        connection = self.feed.opened_with(keys, since)[0]
        seconds = connection.at - moved_at
        print(f"      {name}: connected {seconds:.2f} s after the last label moved")
        # Not in seconds: what moto and a busy machine take is not the worker's.
        looks = (self.labels_seen() - looked) / len(SECRET_IDS)
        self.report.check(f"{name}: a connection with the new keys within {LOOKS} looks", looks <= LOOKS,
                          f"{looks:.1f}")
        return connection

    def labels_seen(self) -> int:
        """How often the worker has asked where the labels of a secret are."""
        return sum(call.operation == "DescribeSecret" for call in self.world.aws.calls_of_task_role())

    def overlapped(self, name: str, old: Connection, new: Connection) -> None:
        """Waits for the cut of the old stream; checks that both brought the same for a while."""
        wait_for(self.worker, f"{name}: the old stream is cut", lambda: old.over)
        self.flow()
        common = len({*old.sent} & {*new.sent})
        self.report.check(f"{name}: both streams brought some of the same posts", common >= 10,
                          f"{common}")
        self.report.check(f"{name}: the old stream was read until it was cut", old.cut)

    def together(self) -> None:
        """The new keys are valid beside the old, for a while."""
        name, (old, new) = "put, old keys still valid", (self.keys[-1], Keys.new())
        self.keys.append(new)
        stream = self.feed.live()[-1]
        self.feed.accept(new)
        since = time.monotonic()
        # Slow enough that torn sets are seen, and refused.
        moved_at = put_all(self.world.aws, new, pause=0.4)
        self.overlapped(name, stream, self.found(name, new, since, moved_at))
        self.feed.revoke(old)
        self.flow()

    def back(self) -> None:
        """The labels go back to the versions before."""
        name, (new, old) = "roll-back by label", self.keys[-2:]
        stream = self.feed.live()[-1]
        self.feed.accept(new)
        since = time.monotonic()
        moved_at = move_all_back(self.world.aws)
        self.overlapped(name, stream, self.found(name, new, since, moved_at))
        self.feed.revoke(old)
        self.keys.append(new)
        self.flow()

    def harsh(self, refused_first: bool) -> None:
        """The service has ended the old keys before the labels move."""
        name = "harsh, put " + ("after a refusal" if refused_first else "at once")
        old, new = self.keys[-1], Keys.new()
        self.keys.append(new)
        since = time.monotonic()
        self.feed.accept(new)
        self.feed.revoke(old)
        if refused_first:
            wait_for(self.worker, f"{name}: the old keys are refused", lambda: any(
                request.at >= since and not request.accepted for request in self.feed.requests))
            time.sleep(0.5)
        moved_at = put_all(self.world.aws, new)
        self.found(name, new, since, moved_at)
        self.flow()


def check_rotations(report: Report, world: World, keys: Keys, seed: int) -> None:
    """Every rotation in its turn, and what is in the table and in the log after them."""
    rotations = Rotations(report, world, keys, seed)
    feed = rotations.feed
    with rotations.worker as worker:
        rotations.flow()
        rotations.together()
        rotations.back()
        rotations.harsh(refused_first=False)
        rotations.harsh(refused_first=True)
        feed.stop()
        wait_for(worker, "all that was given is sent", feed.drained)
        with report.stage("every post that was sent is in the log, by the end"):
            wait_for(worker, "every post is in the log",
                     lambda: len(worker.said("post")) >= len(feed.sent()))
        code = worker.stop()
    sent = feed.sent()
    twice = sum(len(connection.sent) for connection in feed.connections) - len(sent)
    print(f"      {feed.author.serial} posts; {len(sent)} matching ones were sent, {twice} of them "
          f"twice, on {len(feed.connections)} connections; "
          f"{sum(not request.accepted for request in feed.requests)} requests were refused")

    report.equal("the exit code after SIGTERM is 0", code, 0)
    report.equal("one line tells of each rotation",
                 len(worker.said("rotated: a new set of credentials is in use")), rotations.made)
    report.check("every connection asks for FILTER as track, and nothing else",
                 all(request.form == [("track", FILTER)] for request in feed.requests))

    expected = Counter((row.user, row.date, row.text) for row in sent)
    rows = Counter(tuple(item[name]["S"] for name in ("user", "date", "text"))
                   for item in world.aws.items())
    missing, more = expected - rows, rows - expected
    report.check("every post that was sent, on whatever connection, is in the table", not missing,
                 f"{missing.total()}: {list(missing)[:3]}")
    report.check("nothing else is in the table, and no post twice", not more,
                 f"{more.total()}: {list(more)[:3]}")
    logged = Counter(str(event.get("id")) for event in worker.said("post"))
    ids = Counter(str(row.id) for row in sent)
    report.check("the log has each id once", logged == ids,
                 f"missing {list(ids - logged)[:3]}, too many {list(logged - ids)[:3]}")
    stopped = (worker.said("stopped") or [{}])[-1]
    counts = {"posts_matched": len(sent), "rows_written": len(sent), "rows_rejected": 0,
              "rows_waiting": 0, "malformed": 0, "connects": len(feed.connections)}
    report.equal("what it says it has counted is what was sent",
                 {name: stopped.get(name) for name in counts}, counts)

    calls = world.aws.calls_of_task_role()
    stages = {call.body.get("VersionStage") for call in calls
              if call.operation == "GetSecretValue"}
    report.equal("every value is fetched with its staging label", stages, {"AWSCURRENT"})
    values = {f"{name} {number}": value for number, keys in enumerate(rotations.keys)
              for name, value in world.secret_values(keys, feed).items()}
    report.equal("no secret in the output", leaks(worker.everything(), values), [])
    report.equal("nothing on standard error", worker.output["stderr"], [])


def main() -> int:
    """Runs all checks; the exit code."""
    binary, seed = begin()
    report = Report()
    with tempfile.TemporaryDirectory() as directory, report.stage("the rotations"):
        world = World(binary, directory)
        keys = Keys.new()
        world.aws.create(keys)
        check_rotations(report, world, keys, seed)
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
